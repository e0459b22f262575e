"""Which devices there are, and which arithmetic they are good at."""

from __future__ import annotations

import re
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def require_device(name: str) -> str:
    """The name as it came. Raises ValueError unless it is auto, cpu, or cuda or cuda:N of a GPU that PyTorch sees."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise ValueError("is none of auto, cpu, cuda, cuda:N")
    if name.startswith("cuda") and int(match[1] or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"PyTorch sees {count} CUDA devices; take cpu, or auto for what there is")
    return name


def chosen_device(name: str) -> torch.device:
    """The device that a config's `device` means; `auto` is the GPU where PyTorch sees one."""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


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
