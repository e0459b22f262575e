"""The numbers in a file of weights: their precision, and whether all are finite."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ...files import whole_or_nothing
from .header import WeightsFileError
from .listing import listed

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Precisions of temporal layers, by their names in safetensors."""


def dtype_named(name: str | None) -> torch.dtype | None:
    """Return the dtype of a `--dtype` option, None for None. Raises ValueError for an unknown name."""
    if name is not None and name not in TORCH_DTYPES:
        raise ValueError(f"--dtype {name} is none of {', '.join(TORCH_DTYPES)}; give one of these.")
    return None if name is None else TORCH_DTYPES[name]


def require_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise WeightsFileError that names tensors with NaN or infinity."""
    bad = [f"{key} (as {value.dtype})" for key, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise WeightsFileError(
            f"holds NaN or infinity in {listed(bad)}: its training diverged, the file is damaged, or its values are "
            "too large for that precision."
        )


def write_finite(path: Path, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of tensors from any device, whole or not at all: one that exists is then left as it was.

    Raises WeightsFileError for a tensor that is not finite and where the file cannot be written.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    try:
        require_finite(weights)
    except WeightsFileError as error:
        raise WeightsFileError(f"{path.name} is not written: it {error}") from None
    try:
        with whole_or_nothing(path) as part:
            save_file(weights, part, dict(metadata))
    except (OSError, SafetensorError) as error:
        raise WeightsFileError(
            f"{path} cannot be written: {error}. Choose a folder that exists, on a disk with room."
        ) from error
