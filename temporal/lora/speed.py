"""Names of LoRAs and checkpoints for sampling in a few steps."""

from __future__ import annotations

import re

_SPEED = re.compile(r"(?<![a-z])(?:lcm|lightning|hyper(?:sd)?|turbo|dmd2?|tcd|pcm)(?![a-z])", re.IGNORECASE)
_LCM = re.compile(r"(?<![a-z])lcm(?![a-z])|latent.?consistency", re.IGNORECASE)


def is_speed_name(*names: str) -> bool:
    """Return whether one of the names (of a file, a title) is typical of a LoRA or checkpoint for few steps."""
    return any(_SPEED.search(name) for name in names) or is_lcm_name(*names)


def is_lcm_name(*names: str) -> bool:
    """Return whether one of the names means latent consistency, such as lcm-lora-sdxl.safetensors."""
    return any(_LCM.search(name) for name in names)
