"""Which arithmetic a device is good at."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def computes_bf16(device: torch.device | str) -> bool:
    """Whether bf16 is worth having there: most CPUs imitate it, a hundred times slower than they compute fp32."""
    if torch.device(device).type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is Arm's


def uses_bf16(device: torch.device | str, precision: Precision) -> bool:
    """What `precision` means on a device."""
    return precision == "bf16" or (precision == "auto" and computes_bf16(device))


def autocast(device: torch.device | str, precision: Precision = "auto") -> torch.autocast:
    """A context of bf16 arithmetic over fp32 weights, or one that changes nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=uses_bf16(device, precision))
