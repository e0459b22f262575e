"""What a verb with a config prints as its help: at once, without loading PyTorch."""

from __future__ import annotations

import sys
import textwrap

from .config import Config

HELP = ("-h", "--help")
INDENT = " " * 6
WHOLE = {"break_on_hyphens": False, "break_long_words": False}


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
