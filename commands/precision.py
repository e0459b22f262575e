"""Which arithmetic a device is good at."""

from __future__ import annotations

import torch

from .config import Precision


def chosen_device(name: str) -> torch.device:
    """The device that a config's `device` means; `auto` is the GPU where PyTorch sees one."""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def computes_bf16(device: torch.device | str) -> bool:
    """Whether bf16 is worth having there: most CPUs imitate it, a hundred times slower than they compute fp32.

    CUDA devices compute in it from compute capability 8 (Ampere) on.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is Arm's


def arithmetic(device: torch.device | str, precision: Precision) -> torch.dtype:
    """What `precision` means on a device. `auto` is bf16 where that is computed, else fp16 on a GPU, fp32 on a CPU."""
    if precision == "auto":
        precision = "bf16" if computes_bf16(device) else "fp32" if torch.device(device).type == "cpu" else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def base_dtype(device: torch.device | str, precision: Precision) -> torch.dtype | None:
    """What the frozen UNet is held in: half precision where that is computed in; None for fp32, as it is loaded."""
    dtype = arithmetic(device, precision)
    return None if dtype == torch.float32 else dtype


def vae_arithmetic(device: torch.device | str, precision: Precision) -> torch.dtype:
    """The same for a VAE: fp32 in place of fp16, in which SDXL's gives values that are no numbers."""
    dtype = arithmetic(device, precision)
    return torch.float32 if dtype == torch.float16 else dtype


def computing_in(device: torch.device | str, dtype: torch.dtype) -> torch.autocast:
    """A context of half-precision arithmetic over fp32 weights, or for fp32 one that changes nothing."""
    half = dtype != torch.float32
    return torch.autocast(torch.device(device).type, dtype if half else torch.bfloat16, enabled=half)


def autocast(device: torch.device | str, precision: Precision = "auto") -> torch.autocast:
    """`computing_in` what `precision` means on the device."""
    return computing_in(device, arithmetic(device, precision))
