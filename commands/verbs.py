"""How verbs are called and how they end: loaded when they are needed, help at once, errors in one line."""

import errno
import os
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module

from .config import Config, ConfigError
from .interrupts import interrupt_on_signals

HELP = ("-h", "--help")
INDENT = " " * 6
WHOLE = {"break_on_hyphens": False, "break_long_words": False}


def dispatch(verbs: dict[str, tuple[str, str]], arguments: list[str]) -> int:
    """Call the verb that the arguments begin with; returns its exit status. Without a known verb, list them all.

    verbs: name -> (`module:function` in this package, what the verb does in one line).
    """
    verb, *rest = arguments or [""]
    if verb in verbs:
        try:
            interrupt_on_signals()
            module, function = verbs[verb][0].split(":")
            return getattr(import_module(f"..{module}", __package__), function)(rest)
        except KeyboardInterrupt:  # before the verb had begun: PyTorch takes seconds to load
            sys.stderr.write("interrupted; nothing was done\n")
            return 130
    lines = ["usage: sdxl-anime-video VERB ...", "", *(f"  {name:10}{text}" for name, (_, text) in verbs.items())]
    if verb and verb not in HELP:
        lines.insert(0, f"unknown verb {verb!r}")
    (sys.stdout if verb in HELP else sys.stderr).write("\n".join(lines) + "\n")
    return 0 if verb in HELP else 2


def run_verb(verb: str, action: Callable[[], int | None], interrupted: str = "nothing was written") -> int:
    """Run a verb's action; returns its exit status, or 1 after an error of the user's making and 130 after Ctrl-C.

    interrupted: the state after Ctrl-C, as the user should know it. Other errors are faults of the program and are
    raised.
    """
    try:
        return action() or 0
    except ModuleNotFoundError as error:
        complain(verb, ValueError(f"{error.name} is not installed; pip install -r requirements-training.txt"))
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        complain(verb, error)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {interrupted}\n")
        return 130
    return 1


def complain(verb: str, error: Exception) -> None:
    """Write the error in one line to stderr. Where every process of a training run has it, only the first writes."""
    rank, text = os.environ.get("RANK", "0"), _in_one_line(error)
    if rank == "0":
        sys.stderr.write(f"error: {verb}: {text}\n")
    elif not isinstance(error, (ConfigError, FloatingPointError)):
        sys.stderr.write(f"error in process {rank}: {verb}: {text}\n")


def _in_one_line(error: Exception, most: int = 2000) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:  # without Python's number of the error
        text = f"{error.filename}: {error.strerror}"
        if error.errno == errno.ENOSPC and "make room" not in text:
            text += "; make room on the disk"
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."


def answer(arguments: list[str], usage: str, model: type[Config]) -> int | None:
    """Print usage and fields where help was asked for (on stdout), or where there is no argument (on stderr).

    Returns the exit status then, and None where there is work.
    """
    asked = any(word in HELP for word in arguments)
    if arguments and not asked:
        return None
    (sys.stdout if asked else sys.stderr).write(usage + describe_fields(model))
    return 0 if asked else 2


def describe_fields(model: type[Config]) -> str:
    """List every field with its default and meaning."""
    lines = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else field.default
        meaning = textwrap.fill(field.description or "", 120, initial_indent=INDENT, subsequent_indent=INDENT, **WHOLE)
        lines.append(f"  --{name.replace('_', '-')} ({default})\n{meaning}\n")
    return "".join(lines)
