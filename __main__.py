"""Command line: `sdxl-anime-video VERB ...`, or `python -m sdxl_anime_video VERB ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable


def _train(arguments: list[str]) -> int:
    from .training.cli import main

    return main(arguments)


def _inspect(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: sdxl-anime-video inspect ADAPTER.safetensors\n")
        return 2
    from .temporal.adapter import inspect_adapter

    return _show(lambda: inspect_adapter(arguments[0]))


def _convert(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: sdxl-anime-video convert ADAPTER.pt ADAPTER.safetensors\n")
        return 2
    from .temporal.adapter import convert_adapter

    return _show(lambda: convert_adapter(arguments[0], arguments[1]))


def _show(action: Callable[[], object]) -> int:
    """Print what an action returns; an error of the user's making is one line on stderr."""
    try:
        result = action()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if result is not None:
        sys.stdout.write(f"{result}\n")
    return 0


VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train, "train a temporal adapter on a folder of captioned clips"),
    "inspect": (_inspect, "say what an adapter file holds and what it was trained on"),
    "convert": (_convert, "turn an adapter written by torch.save into safetensors"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in VERBS:
        return VERBS[arguments[0]][0](arguments[1:])
    wanted_help = bool(arguments) and arguments[0] in ("-h", "--help")
    lines = ["usage: sdxl-anime-video VERB ...", "", *(f"  {verb:10}{text}" for verb, (_, text) in VERBS.items())]
    if arguments and not wanted_help:
        lines.insert(0, f"unknown verb {arguments[0]!r}")
    (sys.stdout if wanted_help else sys.stderr).write("\n".join(lines) + "\n")
    return 0 if wanted_help else 2


if __name__ == "__main__":
    sys.exit(main())
