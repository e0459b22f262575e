"""What to know about the LoRAs of a clip: advice on their number and weights, and a report for the records.

The advice is that of the project's documents for steady clips: a main style at 0.7 to 0.85, a second one at 0.15 to
0.3, one character at most, at 0.6 to 0.8, three LoRAs in all, and a LoRA for few steps beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .file import SDXL, LoraFile
from .speed import is_speed_name

MOST_LORAS = 3
STRONG = 0.5
HIGHEST = 0.85
_CHARACTER = re.compile(r"(?<![a-z])(?:character|chara|char)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One LoRA of a stack. source: the input that named it; name: of the file; sha256, weights_sha256: its hashes.

    unet, text: layers that it changes; unmatched, misshapen: modules that the model has not, or in another size.
    """

    source: str
    name: str
    weight: float
    clip_weight: float
    speed: bool
    file: LoraFile
    sha256: str
    weights_sha256: str
    unet: int = 0
    text: int = 0
    unmatched: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    @property
    def off(self) -> bool:
        """Whether both weights are 0."""
        return self.weight == self.clip_weight == 0

    @property
    def character(self) -> bool:
        """Whether it is called a character LoRA, by its file's name or its title."""
        return bool(_CHARACTER.search(self.name) or _CHARACTER.search(self.file.title))


def warnings(entries: Sequence[Entry]) -> list[str]:
    """What speaks against a stack, a sentence each."""
    used = [entry for entry in entries if not entry.off]
    ordinary = [entry for entry in used if not entry.speed]
    styles = [entry for entry in ordinary if not entry.character]
    characters = [entry.name for entry in ordinary if entry.character]
    strong = [entry.name for entry in styles if entry.weight >= STRONG]
    found = []
    if len(ordinary) > MOST_LORAS:
        found.append(f"{len(ordinary)} LoRAs: more than {MOST_LORAS} make a clip unsteady")
    if len(characters) > 1:
        found.append(f"{len(characters)} character LoRAs ({', '.join(characters)}): their features mix; keep one")
    if len(strong) > 1:
        found.append(f"{len(strong)} strong styles ({', '.join(strong)}): give the second one 0.15 to 0.3")
    for entry in ordinary:
        if entry.weight > HIGHEST:
            advised = "0.6 to 0.8 for a character" if entry.character else "0.7 to 0.85 for the main style"
            found.append(f"{entry.name} has weight {entry.weight:g}; advised is {advised}")
        if is_speed_name(entry.name, entry.file.title):
            found.append(f"{entry.name} looks like a LoRA for few steps: choose it as speed_lora")
    for entry in used:
        found += _doubts(entry)
    return found


def _doubts(entry: Entry) -> list[str]:
    """What is wrong with a single file."""
    found = []
    for modules, what in ((entry.unmatched, "are not in this model"), (entry.misshapen, "have other sizes in it")):
        if modules:
            found.append(f"{entry.name}: {len(modules)} of its layers {what} and do nothing ({_some(modules)})")
    if entry.file.unread:
        found.append(f"{entry.name}: {len(entry.file.unread)} keys are none of a LoRA's ({_some(entry.file.unread)})")
    if entry.file.base not in (None, SDXL):
        found.append(f"{entry.name} may be for {entry.file.base} ({entry.file.base_from})")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def report(entries: Sequence[Entry]) -> str:
    """The stack as text: warnings first, then every file with weights, layers, base model, trigger words and hashes."""
    parts = [f"Warning: {warning}." for warning in warnings(entries)]
    parts += [_described(entry) for entry in entries]
    return "\n".join(parts) or "No LoRA."


def _described(entry: Entry) -> str:
    file = entry.file
    ranks = f", rank {' to '.join(map(str, file.ranks))}" if file.ranks else ""
    base = f"{file.base} ({file.base_from})" if file.base else "not told; its layers fit this model"
    lines = [
        f"{entry.source}: {entry.name}",
        f"  weight: {entry.weight:g}, on the text encoders {entry.clip_weight:g}{' (off)' if entry.off else ''}",
        f"  layers: {entry.unet} of the diffusion model, {entry.text} of the text encoders",
        f"  format: {' and '.join(file.kinds)}{ranks}, names as {file.naming} writes them",
        f"  base model: {base}" + (f"; trained on {file.trained_on}" if file.trained_on else ""),
    ]
    if file.triggers:
        lines.append(f"  trigger words: {', '.join(file.triggers)} ({file.triggers_from})")
    lines += [f"  SHA-256: {entry.sha256}", f"  SHA-256 of the weights (AutoV3): {entry.weights_sha256}"]
    if file.said_hash and not entry.weights_sha256.startswith(file.said_hash.removeprefix("0x")):
        lines.append("  its weights are not those that its metadata name: it was changed after training")
    return "\n".join(lines)
