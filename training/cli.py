"""`sdxl-anime-video train CONFIG.yaml [--field value ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .config import ConfigError, describe_fields, parse_overrides, read_config
from .run import train

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
    try:
        path, words = preset_or_file(arguments[0]), list(arguments[1:])
        if "--dry-run" in words:
            from .dry_run import main as dry_run

            words.remove("--dry-run")
            dry_run(path, words)
        else:
            train(read_config(path, parse_overrides(words)))
    except (ValueError, FloatingPointError, OSError, MemoryError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; go on with --resume latest\n")
        return 130
    return 0


def presets() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def preset_or_file(name: str) -> Path:
    """A config file by its path, or one that comes with the package by its name.

    Raises ConfigError that lists the presets if it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name in presets():
        return CONFIGS / f"{name}.yaml"
    raise ConfigError(f"config {name} does not exist; give a YAML file, or one of the presets {', '.join(presets())}")


def _complain(error: Exception) -> None:
    """The error in one line; where every process of a run has the same one, by the first alone."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        sys.stderr.write(f"error: {error}\n")
    elif not isinstance(error, (ConfigError, FloatingPointError)):
        sys.stderr.write(f"error in process {rank}: {error}\n")


__all__ = ["ConfigError", "main", "train"]
