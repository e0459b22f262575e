"""The device and the precision that a config's names mean."""

import torch

from .config import Precision


def chosen_device(name: str) -> torch.device:
    """Return the device of a config's `device`; `auto` is a GPU if PyTorch sees one, else the CPU."""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def computes_bf16(device: torch.device | str) -> bool:
    """Return whether the device computes in bf16: CUDA does from compute capability 8 (Ampere) on.

    Most CPUs only emulate bf16, a hundred times slower than they compute fp32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is Arm's


def arithmetic(device: torch.device | str, precision: Precision) -> torch.dtype:
    """Return the dtype of `precision` on a device. `auto`: bf16 if it computes in that, else fp16 on a GPU or fp32."""
    if precision == "auto":
        precision = "bf16" if computes_bf16(device) else "fp32" if torch.device(device).type == "cpu" else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def base_dtype(device: torch.device | str, precision: Precision) -> torch.dtype | None:
    """Return the half-precision dtype that the frozen UNet is converted to; None for fp32, as it is loaded."""
    dtype = arithmetic(device, precision)
    return None if dtype == torch.float32 else dtype


def vae_arithmetic(device: torch.device | str, precision: Precision) -> torch.dtype:
    """Return the same for a VAE, with fp32 in place of fp16: SDXL's VAE overflows to NaN in fp16."""
    dtype = arithmetic(device, precision)
    return torch.float32 if dtype == torch.float16 else dtype


def computing_in(device: torch.device | str, dtype: torch.dtype) -> torch.autocast:
    """Return a context of half-precision arithmetic over fp32 weights; for fp32 it changes nothing."""
    half = dtype != torch.float32
    return torch.autocast(torch.device(device).type, dtype if half else torch.bfloat16, enabled=half)


def autocast(device: torch.device | str, precision: Precision = "auto") -> torch.autocast:
    """Return the context of `computing_in` for `precision` on the device."""
    return computing_in(device, arithmetic(device, precision))
