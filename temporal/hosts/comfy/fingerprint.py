"""What a run of a sampler depends on, as digests that can be compared with those of another run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn


def digest(value: Any) -> str:
    """A digest of tensors, numbers, texts, collections and dataclasses of them, modules and ModelPatchers by their
    weights, ControlNets by model, hint and settings. Of anything else only the kind is known."""
    hasher = hashlib.blake2b(digest_size=16)
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _feed_tensor(hasher, value)
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        hasher.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            hasher.update(f"{key!r}=".encode())
            _feed(hasher, value[key])
    elif isinstance(value, (list, tuple)):
        hasher.update(f"{len(value)}[".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, (set, frozenset)):
        _feed(hasher, sorted(value, key=repr))
    else:
        _feed_object(hasher, value)


def _feed_object(hasher: Any, value: Any) -> None:
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    hasher.update(f"{kind.__module__}.{kind.__qualname__}".encode())
    if isinstance(value, nn.Module):
        _feed_weights(hasher, value)
    elif hasattr(value, "patches") and isinstance(getattr(value, "model", None), nn.Module):  # a ModelPatcher
        # Core writes LoRAs into the weights when it loads a model, and keeps what was there.
        _feed_weights(hasher, value.model, getattr(value, "backup", {}))
        _feed(hasher, value.patches)
    elif hasattr(value, "cond_hint_original"):  # a ControlNet
        _feed(hasher, [value.cond_hint_original, value.strength, list(value.timestep_percent_range)])
        _feed(hasher, [getattr(value, "control_model", None), value.previous_controlnet])
    elif is_dataclass(value):
        for field in fields(value):
            hasher.update(field.name.encode())
            _feed(hasher, getattr(value, field.name))
    elif hasattr(value, "weights"):  # a LoRA or one of its kin on one layer
        _feed(hasher, value.weights)
    elif hasattr(value, "cond"):  # core's COND objects
        _feed(hasher, value.cond)


def _feed_tensor(hasher: Any, value: torch.Tensor) -> None:
    hasher.update(f"{value.dtype}{list(value.shape)}".encode())
    flat = value.detach().contiguous().flatten().cpu()
    if flat.numel():
        hasher.update(flat.view(torch.uint8).numpy().data)


def _feed_weights(hasher: Any, module: nn.Module, originals: Mapping[str, Any] | None = None) -> None:
    """Sums of the bits of every row of every weight: seconds less than hashing gigabytes, on whatever device."""
    for name, value in module.state_dict().items():
        if originals and name in originals:
            value = getattr(originals[name], "weight", originals[name])
        hasher.update(f"{name}{value.dtype}{list(value.shape)}".encode())
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        if value.numel():
            bits = value.detach().contiguous().view(whole).reshape(len(value) if value.ndim else 1, -1)
            hasher.update(bits.sum(1, dtype=torch.int64).cpu().numpy().data)
