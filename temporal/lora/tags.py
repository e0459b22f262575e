"""LoRA tags of a prompt: read them, remove them, find their files.

The notation is that of AUTOMATIC1111's web UI: `<lora:NAME:WEIGHT>`, or `<lora:NAME:UNET_WEIGHT:CLIP_WEIGHT>`. `lyco`
in place of `lora` means the same. An unreadable tag is an error, never a guess.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..weights.listing import listed, one_line

MOST = 10.0
"""Weights lie between -MOST and MOST."""
_OPENING = re.compile(r"<\s*(?:lora|lyco)\s*:", re.IGNORECASE)
_TAG = re.compile(_OPENING.pattern + r"([^<>]*)>", re.IGNORECASE)
_BRACKET = re.compile(r"(?<!\\)[(\[]\s*$")
_CLOSING = re.compile(r"\s*(?::\s*[\d.]+\s*)?[)\]]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)
_EXAMPLE = "<lora:name:0.8>"


@dataclass(frozen=True)
class Tag:
    """name: as written; weight: on the diffusion model; clip_weight: on the text encoders."""

    name: str
    weight: float
    clip_weight: float


def take_tags(prompt: str) -> tuple[str, list[Tag]]:
    """Return the prompt without its tags, and the tags in their order; an exact repetition counts once.

    With a tag goes the comma after it, brackets around it alone, as in `(<lora:name:0.8>:1.2)`, and a line that it has
    to itself. A prompt without tags is returned unchanged.

    Raises ValueError for a tag that is not closed, lacks a name or a weight, or has a weight that is no number or too
    large.
    """
    tags: dict[Tag, None] = {}
    done, rest = "", prompt
    while match := _TAG.search(rest):
        tags[_read(match[0], match[1])] = None
        done, rest = _seam(*_without_brackets(done + rest[: match.start()], rest[match.end() :]))
    opened = _OPENING.search(done + rest)
    if opened:
        raise ValueError(f"the tag {one_line((done + rest)[opened.start() :])!r} is not closed; write it as {_EXAMPLE}")
    return done + rest, list(tags)


def _without_brackets(before: str, after: str) -> tuple[str, str]:
    """Return the texts before and after a tag without the brackets around it alone and their weight."""
    while (opening := _BRACKET.search(before)) and (closing := _CLOSING.match(after)):
        before, after = before[: opening.start()], after[closing.end() :]
    return before, after


def _seam(before: str, after: str) -> tuple[str, str]:
    """Return the texts before and after a removed tag, to be joined without a doubled comma, space or line."""
    bare, follows = before.rstrip(" \t"), after.lstrip(" \t")
    if bare and bare[-1] not in ",\n":  # a word: it keeps the comma behind the tag
        if follows[:1] in ("", *",\n:)]"):
            return bare, follows
        return before, follows if before != bare else after
    after = follows.removeprefix(",").lstrip(" \t")
    if bare[-1:] in ("", "\n"):  # the tag began its line
        return bare, after.removeprefix("\n")
    return (bare if after[:1] in ("", "\n") else before), after


def _read(whole: str, inside: str) -> Tag:
    """Return the tag from the text between `<lora:` and `>`."""
    name, *weights = [part.strip() for part in inside.split(":")]
    if not name:
        raise ValueError(f"the tag {one_line(whole)!r} has no name; write it as {_EXAMPLE}")
    if not 1 <= len(weights) <= 2:
        said = f"{len(weights)} weights" if weights else "no weight"
        raise ValueError(f"the tag {one_line(whole)!r} has {said}; write <lora:name:weight> or <lora:name:unet:clip>")
    numbers = [_weight(whole, text) for text in weights]
    return Tag(name, numbers[0], numbers[-1])


def _weight(whole: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(
            f"the tag {one_line(whole)!r} has the weight {text!r}, which is no number; write one such as 0.8"
        )
    if not abs(float(text)) <= MOST:
        raise ValueError(
            f"the tag {one_line(whole)!r} has the weight {text}; it must lie between -{MOST:g} and {MOST:g}"
        )
    return float(text)


def resolve(name: str, files: Collection[str]) -> str:
    """Return the file that a tag's name means. files: paths below the loras folder.

    A name is a path as listed, a path without its suffix, or a file's name alone, with or without suffix, if only one
    file has it. Both kinds of slashes and both encodings of an accent are equal.

    Raises ValueError, which names the candidates.
    """
    wanted = _plain(name)
    paths = {file: PurePosixPath(_plain(file)) for file in files}
    ways = (
        [file for file, path in paths.items() if str(path) == wanted],
        [file for file, path in paths.items() if str(path.with_suffix("")) == wanted],
        [file for file, path in paths.items() if wanted in (path.name, path.stem)],
    )
    for found in ways:
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{name!r} may be any of {_names(found)}; write its folder too")
    stems = {path.stem.lower(): file for file, path in paths.items()}
    near = difflib.get_close_matches(PurePosixPath(wanted).name.lower(), stems, n=3, cutoff=0.5)
    hint = f"did you mean {_names([stems[stem] for stem in near])}?" if near else "put the file there"
    raise ValueError(f"there is no {name!r} in models/loras; {hint} (press R on the page to refresh the list)")


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def _names(files: Iterable[str]) -> str:
    return listed(repr(file) for file in sorted(files))
