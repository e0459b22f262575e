"""`sdxl-anime-video train CONFIG.yaml [--field value ...]`."""

from pathlib import Path

from ...commands.config import ConfigError
from ...commands.overrides import parse_overrides, read_config
from ...commands.verbs import answer, run_verb
from ..config.train import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
USAGE = """usage: sdxl-anime-video train CONFIG.yaml [--field value ...]
       sdxl-anime-video train PRESET --clips CLIPS --base CHECKPOINT [--field value ...]
       sdxl-anime-video train ... --dry-run [--memory 20GB]
       accelerate launch -m sdxl_anime_video train ...

Trains a temporal adapter, or a motion module, on what `prepare` made or on a folder of captioned clips.
PRESET is one of {presets}.
--dry-run trains nothing: it counts parameters, estimates memory, times a few steps, and says which sizes fit --memory.
Fields of the config, all of which can be overridden here:
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. Errors that the user can mend are one line on stderr."""
    status = answer(arguments, USAGE.format(presets=", ".join(presets())), TrainConfig)
    if status is not None:
        return status
    interrupted = "nothing was trained" if "--dry-run" in arguments else "go on with --resume latest"
    return run_verb("train", lambda: _train(arguments[0], list(arguments[1:])), interrupted)


def _train(config: str, words: list[str]) -> None:
    path = preset_or_file(config)
    if "--dry-run" in words:
        from .dry_run import main as dry_run

        words.remove("--dry-run")
        dry_run(path, words)
        return
    if any(word.split("=")[0] == "--memory" for word in words):
        raise ConfigError("command line: --memory is for --dry-run; add that, or leave --memory out")
    overrides = parse_overrides(words, TrainConfig)
    if "clips" in overrides:  # the config's dataset names other clips
        overrides.setdefault("dataset", "")
    read = read_config(path, overrides, TrainConfig)
    from .run import train  # PyTorch takes seconds to load, so the errors above come first

    train(read)


def presets() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def preset_or_file(name: str) -> Path:
    """Return a config file by its path, or a preset of the package by its name.

    Raises ConfigError that lists the presets if it is neither.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and name not in presets()):  # read_config refuses folders
        return path
    if name in presets():
        return CONFIGS / f"{name}.yaml"
    raise ConfigError(f"config {name} does not exist; give a YAML file, or one of the presets {', '.join(presets())}")
