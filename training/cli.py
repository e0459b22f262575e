"""`sdxl-anime-video train CONFIG.yaml [--field value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from .config import ConfigError
from .config_file import describe_fields, parse_overrides, read_config
from .verbs import run_verb

USAGE = """usage: sdxl-anime-video train CONFIG.yaml [--field value ...]
       sdxl-anime-video train PRESET --clips FOLDER --base CHECKPOINT [--field value ...]
       sdxl-anime-video train ... --dry-run [--memory 20GB]
       accelerate launch -m sdxl_anime_video train ...

Trains a temporal adapter on a folder of captioned clips. PRESET is one of {presets}.
--dry-run writes nothing: it counts parameters, estimates memory, times a few steps, and says which sizes fit --memory.
Fields of the config, all of which can be overridden here:
"""
CONFIGS = Path(__file__).parent / "configs"


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. Errors of the user's making are one line on stderr."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE.format(presets=", ".join(presets())) + describe_fields() + "\n")
        return 0 if arguments else 2
    return run_verb("train", lambda: _train(arguments[0], list(arguments[1:])), "go on with --resume latest")


def _train(config: str, words: list[str]) -> None:
    from .dry_run import main as dry_run
    from .run import train

    path = preset_or_file(config)
    if "--dry-run" in words:
        words.remove("--dry-run")
        dry_run(path, words)
        return
    overrides = parse_overrides(words)
    if "clips" in overrides:  # the config's name of the clips is not theirs
        overrides.setdefault("dataset", "")
    train(read_config(path, overrides))


def presets() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def preset_or_file(name: str) -> Path:
    """A config file by its path, or one that comes with the package by its name.

    Raises ConfigError that lists the presets if it is neither.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and name not in presets()):  # a folder is refused when it is read
        return path
    if name in presets():
        return CONFIGS / f"{name}.yaml"
    raise ConfigError(f"config {name} does not exist; give a YAML file, or one of the presets {', '.join(presets())}")
