"""The LoRAs of a stack, in the order in which they go on: three rows, tags of the prompt, and one for few steps."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .tags import MOST, resolve, take_tags

NONE = "None"
"""What a row without a LoRA names."""
ROWS = (1, 2, 3)
SPEED = "speed_lora"


@dataclass(frozen=True)
class Choice:
    """One LoRA of a stack. source: the input that names it; name: its file below the loras folder."""

    source: str
    name: str
    weight: float
    clip_weight: float

    @property
    def off(self) -> bool:
        """Whether both weights are 0."""
        return self.weight == self.clip_weight == 0

    @property
    def speed(self) -> bool:
        """Whether it was chosen as the LoRA for few steps."""
        return self.source == SPEED


def choose(prompt: str, rows: Mapping[str, Any], files: Collection[str]) -> tuple[str, list[Choice]]:
    """Return the prompt without its tags, and the LoRAs that rows and tags name.

    rows: `lora_N`, `weight_N`, `clip_weight_N`, `speed_lora` and `speed_weight`, as the node's inputs; files: all names
    in the loras folder.

    Raises ValueError for a weight out of range, a file that is missing, and one that is named twice.
    """
    rest, tags = take_tags(prompt)
    found = [
        *_rows(rows),
        *(Choice("a tag of the prompt", resolve(tag.name, files), tag.weight, tag.clip_weight) for tag in tags),
        *_row(SPEED, rows, rows.get("speed_weight", 1.0)),
    ]
    sources: dict[str, str] = {}
    for choice in found:
        if choice.name not in files:
            raise ValueError(
                f"{choice.source} {choice.name!r} is not in models/loras; put the file there and press R on the page "
                "to refresh the list"
            )
        if choice.name in sources:
            raise ValueError(f"{choice.name} is named by {sources[choice.name]} and {choice.source}; remove one")
        sources[choice.name] = choice.source
    return rest, found


def _rows(rows: Mapping[str, Any]) -> Iterator[Choice]:
    for row in ROWS:
        yield from _row(f"lora_{row}", rows, rows.get(f"weight_{row}", 1.0), rows.get(f"clip_weight_{row}"))


def _row(source: str, rows: Mapping[str, Any], weight: float, clip_weight: float | None = None) -> Iterator[Choice]:
    """The LoRA of one row, if it names one. clip_weight: None for the weight itself."""
    name = rows.get(source) or NONE
    if name == NONE:
        return
    choice = Choice(source, name, weight, weight if clip_weight is None else clip_weight)
    for value in (choice.weight, choice.clip_weight):
        if not (math.isfinite(value) and abs(value) <= MOST):
            raise ValueError(f"{source} has weight {value:g}; it must lie between {-MOST:g} and {MOST:g}")
    yield choice
