"""`sdxl-anime-video inspect FILE` and `sdxl-anime-video convert SOURCE TARGET.safetensors`."""

import argparse
import sys
from pathlib import Path

from ...commands.verbs import run_verb


def inspect(arguments: list[str]) -> int:
    """Run the verb `inspect`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="sdxl-anime-video inspect",
        description="say what a temporal adapter, a motion module or a motion LoRA holds",
    )
    parser.add_argument("file", metavar="FILE")
    options = parser.parse_args(arguments)
    return run_verb("inspect", lambda: _inspect(options.file))


def _inspect(file: str) -> None:
    from .formats import inspect_weights

    sys.stdout.write(f"{inspect_weights(file)}\n")


def convert(arguments: list[str]) -> int:
    """Run the verb `convert`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="sdxl-anime-video convert",
        description="turn an adapter or motion module by torch.save into safetensors, or into another precision",
    )
    parser.add_argument("source", metavar="SOURCE", help="what torch.save wrote, or a .safetensors file")
    parser.add_argument("target", metavar="TARGET.safetensors", help="a file that is not there yet")
    parser.add_argument("--dtype", metavar="F32|F16|BF16", help="precision; without it as it is")
    options = parser.parse_args(arguments)
    return run_verb("convert", lambda: _convert(options.source, options.target, options.dtype))


def _convert(source: str, target: str, dtype: str | None) -> None:
    from .formats import format_of
    from .values import dtype_named

    if not target.endswith(".safetensors"):
        raise ValueError(f"{target!r} does not end in .safetensors; name the file to write")
    if Path(target).exists():
        raise ValueError(f"{target} is there already; name another, or remove it")
    sys.stdout.write(f"{target}\n{format_of(source).convert(source, target, dtype_named(dtype))}\n")
