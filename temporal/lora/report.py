"""Advice on the number and the weights of the LoRAs in a clip, and a report of them for the records.

The advice is that of the project's documents for steady clips: a main style at 0.7 to 0.85, a second one at 0.15 to
0.3, one character at most, at 0.6 to 0.8, three LoRAs in all, and a LoRA for few steps beside them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..weights.listing import listed
from .file import SDXL, LoraFile, is_speed_name
from .stack import Choice

MOST_LORAS = 3
STRONG = 0.5
HIGHEST = 0.85
_CHARACTER = re.compile(r"(?<![a-z])(?:character|chara|char)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Fit:
    """What of a LoRA takes effect: numbers of layers in the diffusion model (unet) and in the text encoders (text).

    unmatched, misshapen: modules that the model does not have, or has in another size.
    """

    unet: int = 0
    text: int = 0
    unmatched: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One LoRA on a model. sha256, weights_sha256: hashes of the whole file and of its tensors."""

    choice: Choice
    file: LoraFile
    fit: Fit
    sha256: str
    weights_sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.choice.name

    @property
    def character(self) -> bool:
        """Whether the file's name or title calls it a character."""
        return bool(_CHARACTER.search(self.name) or _CHARACTER.search(self.file.title))


def warnings(entries: Sequence[Entry]) -> list[str]:
    """Return what speaks against a stack, a sentence each."""
    used = [entry for entry in entries if not entry.choice.off]
    ordinary = [entry for entry in used if not entry.choice.speed]
    styles = [entry for entry in ordinary if not entry.character]
    characters = [entry.name for entry in ordinary if entry.character]
    strong = [entry.name for entry in styles if entry.choice.weight >= STRONG]
    found = []
    if len(ordinary) > MOST_LORAS:
        found.append(f"{len(ordinary)} LoRAs: more than {MOST_LORAS} make a clip unsteady")
    if len(characters) > 1:
        found.append(f"{len(characters)} character LoRAs ({', '.join(characters)}): their features mix; keep one")
    if len(strong) > 1:
        found.append(f"{len(strong)} strong styles ({', '.join(strong)}): give the second one 0.15 to 0.3")
    for entry in ordinary:
        weight = entry.choice.weight
        if weight > HIGHEST:
            advised = "0.6 to 0.8 for a character" if entry.character else "0.7 to 0.85 for the main style"
            found.append(f"{entry.name} has weight {weight:g}; advised is {advised}")
        if is_speed_name(entry.name, entry.file.title):
            found.append(f"{entry.name} looks like a LoRA for few steps: choose it as speed_lora")
    for entry in used:
        found += _doubts(entry)
    return found


def _doubts(entry: Entry) -> list[str]:
    """Return what is wrong with a single file."""
    name, file, fit = entry.name, entry.file, entry.fit
    found = []
    for modules, fault in ((fit.unmatched, "are not in this model"), (fit.misshapen, "have other sizes in it")):
        if modules:
            found.append(f"{name}: {len(modules)} of its layers {fault} and do nothing ({listed(modules)})")
    if file.unread:
        found.append(f"{name}: {len(file.unread)} of its keys belong to no LoRA ({listed(file.unread)})")
    if file.base not in (None, SDXL):
        found.append(f"{name} may be for {file.base} ({file.base_from})")
    return found


def report(entries: Sequence[Entry]) -> str:
    """Return the stack as text: warnings first, then of each file weights, layers, base model, triggers and hashes."""
    parts = [f"Warning: {warning}." for warning in warnings(entries)]
    parts += [_described(entry) for entry in entries]
    return "\n".join(parts) or "No LoRA."


def _described(entry: Entry) -> str:
    choice, file, fit = entry.choice, entry.file, entry.fit
    ranks = f", rank {' to '.join(map(str, file.ranks))}" if file.ranks else ""
    base = f"{file.base} ({file.base_from})" if file.base else "unknown; its layers fit this model"
    lines = [
        f"{choice.source}: {choice.name}",
        f"  weight: {choice.weight:g}, on the text encoders {choice.clip_weight:g}{' (off)' if choice.off else ''}",
        f"  layers: {fit.unet} of the diffusion model, {fit.text} of the text encoders",
        f"  format: {' and '.join(file.kinds)}{ranks}, names as {file.naming} writes them",
        f"  base model: {base}" + (f"; trained on {file.trained_on}" if file.trained_on else ""),
    ]
    if file.triggers:
        lines.append(f"  trigger words: {', '.join(file.triggers)} ({file.triggers_from})")
    lines += [f"  SHA-256: {entry.sha256}", f"  SHA-256 of the weights (AutoV3): {entry.weights_sha256}"]
    if file.said_hash and not entry.weights_sha256.startswith(file.said_hash.removeprefix("0x")):
        lines.append("  its weights differ from the hash in its metadata: it was changed after training")
    return "\n".join(lines)
