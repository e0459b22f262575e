"""What the programs share that render clips with a real ComfyUI, in their own process, and judge them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...demo.model import WEIGHTS
from ..arguments import number, whole
from .evaluate import MOST_PAIRS

TOON = WEIGHTS.parent
ADAPTER = TOON / "temporal_adapters" / "toon" / "toon_adapter.safetensors"


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """The arguments that all of them have. output: the default folder."""
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="a temporal adapter or a motion module")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--pairs", type=whole(1, MOST_PAIRS), default=12, help="held-out caption/seed pairs")
    parser.add_argument("--frames", type=whole(2), default=16)
    parser.add_argument("--correlation", type=number(0, 1), default=0.95, help="of progressive noise")
    parser.add_argument("--seed", type=whole(0), default=0, help="chooses the pairs")
    parser.add_argument("--shown", type=whole(1), default=3, help="pairs on the contact sheet")
    parser.add_argument("--threads", type=whole(1), default=None)
    parser.add_argument("--cpu", action="store_true", help="render on the CPU even if there is a GPU")


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


def evaluate(
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace, Callable[[str], Any]], str],
    file: Path,
    command: str,
) -> int:
    """Print the table that `run` makes of the options, in a process with ComfyUI; the exit status.

    file: must be there beside the adapter; command: makes one. What is wrong with the files goes to stderr.
    """
    from ...headless.comfyui import ComfyUINotFound, import_comfyui

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        for path, make in ((options.adapter, "python -m sdxl_anime_video train"), (file, command)):
            if not path.is_file():
                raise ValueError(f"{path} is missing; restore it from the repository or make it with {make}")
        with tempfile.TemporaryDirectory(prefix="sav-evaluate-") as base:
            import_comfyui(Path(base), cpu=options.cpu or not torch.cuda.is_available())
            sys.stdout.write(run(options, lambda line: sys.stderr.write(line + "\n")))
    except (ValueError, OSError, ComfyUINotFound) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
