"""Command line: `sdxl-anime-video VERB ...`, or `python -m sdxl_anime_video VERB ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def _prepare(arguments: list[str]) -> int:
    from .commands.interrupts import interrupt_on_signals
    from .training.prepare.run import main

    interrupt_on_signals()
    return main(arguments)


def _train(arguments: list[str]) -> int:
    from .commands.interrupts import interrupt_on_signals
    from .training.run.verb import main

    interrupt_on_signals()
    return main(arguments)


def _render(arguments: list[str]) -> int:
    from .commands.interrupts import interrupt_on_signals
    from .rendering.render import main

    interrupt_on_signals()
    return main(arguments)


def _evaluate(arguments: list[str]) -> int:
    from .commands.interrupts import interrupt_on_signals
    from .rendering.evaluate import main

    interrupt_on_signals()
    return main(arguments)


def _inspect(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="sdxl-anime-video inspect", description=VERBS["inspect"][1])
    parser.add_argument("file", metavar="FILE")
    file = parser.parse_args(arguments).file
    from .temporal.weights.inspection import inspect_weights

    return _show("inspect", lambda: inspect_weights(file))


def _convert(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="sdxl-anime-video convert", description=VERBS["convert"][1])
    parser.add_argument("source", metavar="SOURCE", help="what torch.save wrote, or a .safetensors file")
    parser.add_argument("target", metavar="TARGET.safetensors", help="a file that is not there yet")
    parser.add_argument("--dtype", metavar="F32|F16|BF16", help="precision; without it as it is")
    options = parser.parse_args(arguments)
    source, target = options.source, options.target
    from .temporal.weights.convert import convert_adapter
    from .temporal.weights.inspection import kind_of
    from .temporal.weights.motion_module_format import convert_motion_module

    def convert() -> str:
        if not target.endswith(".safetensors"):
            raise ValueError(f"{target!r} does not end in .safetensors; name the file to write")
        if Path(target).exists():
            raise ValueError(f"{target} is there already; name another, or remove it")
        run = convert_motion_module if kind_of(source) == "motion module" else convert_adapter
        return f"{target}\n{run(source, target, dtype=options.dtype)}"

    return _show("convert", convert)


def _show(verb: str, action: Callable[[], object]) -> int:
    """Print what an action returns; an error of the user's making is one line on stderr."""
    from .commands.verbs import run_verb

    return run_verb(verb, lambda: _print(action()), "nothing was written")


def _print(result: object) -> None:
    sys.stdout.write(f"{result}\n")


def _usage(verb: str, *arguments: str) -> int | None:
    from .commands.usage import answer

    return answer(verb, list(arguments))


HELP = ("-h", "--help")
LONG = ("prepare", "train", "render")  # verbs whose help is a list of fields, told without loading PyTorch
VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "prepare": (_prepare, "turn videos into a cache of clips to train on"),
    "train": (_train, "train a temporal adapter or a motion module on prepared clips or a folder of captioned ones"),
    "render": (_render, "render a clip from a checkpoint, an adapter or motion module, and prompts, without ComfyUI"),
    "evaluate": (_evaluate, "measure flicker, warp error, motion and identity drift of clips"),
    "inspect": (_inspect, "say what a temporal adapter, a motion module or a motion LoRA holds"),
    "convert": (_convert, "turn an adapter or motion module by torch.save into safetensors, or into another precision"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in VERBS:
        try:
            if arguments[0] in LONG and (status := _usage(*arguments)) is not None:
                return status
            return VERBS[arguments[0]][0](arguments[1:])
        except KeyboardInterrupt:  # before the verb had begun: PyTorch takes seconds to load
            sys.stderr.write("interrupted; nothing was done\n")
            return 130
    wanted_help = bool(arguments) and arguments[0] in HELP
    lines = ["usage: sdxl-anime-video VERB ...", "", *(f"  {verb:10}{text}" for verb, (_, text) in VERBS.items())]
    if arguments and not wanted_help:
        lines.insert(0, f"unknown verb {arguments[0]!r}")
    (sys.stdout if wanted_help else sys.stderr).write("\n".join(lines) + "\n")
    return 0 if wanted_help else 2


if __name__ == "__main__":
    sys.exit(main())
