"""Parts of messages: the first few of a long list, the start of a long text."""

from collections.abc import Iterable
from typing import Any

MOST = 3
"""Examples of a long list."""


def listed(things: Iterable[Any], separator: str = ", ") -> str:
    """The first three things and the number of those that follow: "a, b, c and 1,200 more"."""
    texts = [str(thing) for thing in things]
    more = f" and {len(texts) - MOST:,} more" if len(texts) > MOST else ""
    return separator.join(texts[:MOST]) + more


def shortened(text: str, most: int = 120) -> str:
    """The start of a text, `most` letters with the dots that mark a cut."""
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(text: str, most: int = 80) -> str:
    """The start of a text on one line, without the control characters that a stranger's file may hold."""
    return shortened(" ".join("".join(letter if letter.isprintable() else " " for letter in text).split()), most)


def quoted(value: Any) -> str:
    """The start of a value as Python writes it; a text stands in quotation marks."""
    return shortened(repr(value))
