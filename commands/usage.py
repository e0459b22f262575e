"""What `prepare`, `train` and `render` say when asked how they are called: at once, without loading PyTorch."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from .config import Config

HELP = ("-h", "--help")
INDENT = " " * 6
WHOLE = {"break_on_hyphens": False, "break_long_words": False}
CONFIGS = Path(__file__).parents[1] / "training" / "configs"
TRAIN = """usage: sdxl-anime-video train CONFIG.yaml [--field value ...]
       sdxl-anime-video train PRESET --clips CLIPS --base CHECKPOINT [--field value ...]
       sdxl-anime-video train ... --dry-run [--memory 20GB]
       accelerate launch -m sdxl_anime_video train ...

Trains a temporal adapter, or a motion module, on what `prepare` made or on a folder of captioned clips.
PRESET is one of {presets}.
--dry-run trains nothing: it counts parameters, estimates memory, times a few steps, and says which sizes fit --memory.
Fields of the config, all of which can be overridden here:
"""
PREPARE = """usage: sdxl-anime-video prepare VIDEOS ... -o CACHE --checkpoint SDXL [--field value ...]

Cuts videos into clips, encodes them, and keeps them in a cache that `train` reads (clips: CACHE). Fields:
"""
RENDER = """usage: sdxl-anime-video render CONFIG.json [--field value ...]

Renders a clip. Fields of the config, all of which can be overridden here:
"""


def answer(verb: str, arguments: list[str]) -> int | None:
    """Say how the verb is called if it was asked for (on stdout), or if there is nothing else to do (on stderr).

    Returns the exit status then, and None where there is work.
    """
    asked = any(word in HELP for word in arguments)
    if arguments and not asked:
        return None
    (sys.stdout if asked else sys.stderr).write(_usage(verb))
    return 0 if asked else 2


def presets() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _usage(verb: str) -> str:
    if verb == "prepare":
        from ..training.prepare.options import PrepareConfig

        return PREPARE + describe_fields(PrepareConfig)
    if verb == "render":
        from ..rendering.config import RenderConfig

        return RENDER + describe_fields(RenderConfig)
    from ..training.config.train import TrainConfig

    return TRAIN.format(presets=", ".join(presets())) + describe_fields(TrainConfig)


def describe_fields(model: type[Config]) -> str:
    """Every field with its default and meaning."""
    lines = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else field.default
        meaning = textwrap.fill(field.description or "", 120, initial_indent=INDENT, subsequent_indent=INDENT, **WHOLE)
        lines.append(f"  --{name.replace('_', '-')} ({default})\n{meaning}\n")
    return "".join(lines)
