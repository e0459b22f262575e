"""What the programs share that render clips with a real ComfyUI, in their own process, and judge them."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...demo.model import WEIGHTS
from ..arguments import number, whole
from .arms import report

TOON = WEIGHTS.parent
ADAPTER = TOON / "temporal_adapters" / "toon" / "toon_adapter.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all of them have."""
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="a temporal adapter or a motion module")
    parser.add_argument("--correlation", type=number(0, 1), default=0.95, help="of progressive noise")
    parser.add_argument("--shown", type=whole(1), default=3, help="pairs on the contact sheet")
    parser.add_argument("--threads", type=whole(1), default=None)
    parser.add_argument("--cpu", action="store_true", help="render on the CPU even if there is a GPU")


def report_in_comfyui(
    options: argparse.Namespace,
    parse: Callable[[argparse.Namespace], Any],
    run: Callable[[argparse.Namespace, Any], str],
    file: Path,
    command: str,
) -> int:
    """Print the table that `run` makes of the parsed arms, in a process with ComfyUI; returns the exit status.

    file: must be there beside the adapter; command: makes one. What is wrong with the options goes to stderr.
    """
    from ...headless.comfyui import import_comfyui

    def make_table() -> str:
        arms = parse(options)
        for path, make in ((options.adapter, "python -m sdxl_anime_video train"), (file, command)):
            if not path.is_file():
                raise ValueError(f"{path} is missing; restore it from the repository or make it with {make}")
        with tempfile.TemporaryDirectory(prefix="sav-evaluate-") as base:
            import_comfyui(Path(base), cpu=options.cpu or not torch.cuda.is_available())
            return run(options, arms)

    return report(make_table, options.threads)


def temporal_layers(path: Path) -> Callable[[Any], Any]:
    """What makes a clone of a MODEL with the temporal adapter or motion module of a file, which is loaded here.

    Raises ValueError, naming the file.
    """
    from ...temporal.hosts.comfy.layers.adapter import apply_adapter
    from ...temporal.hosts.comfy.layers.motion_module import apply_motion_module
    from ...temporal.hosts.comfy.layers.planned import load_patcher
    from ...temporal.layers.adapter import TemporalAdapter

    layers = load_patcher(path)
    apply = apply_adapter if isinstance(layers.model, TemporalAdapter) else apply_motion_module
    return lambda model: apply(model, layers)


def with_progressive_noise(model: Any, correlation: float) -> Any:
    """A clone of a MODEL that samples from progressive noise; the MODEL itself for a correlation of 0."""
    from ...temporal.clip.contract import NoiseSettings
    from ...temporal.hosts.comfy.sampling.wrapper import record

    noise = NoiseSettings("progressive", correlation)
    return record(model, lambda contract: contract.with_noise(noise)) if correlation else model
