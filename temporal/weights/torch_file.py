"""Tensors of a safetensors or torch.save file, each read when it is asked for. No code in a file is ever run."""

import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .header import WeightsFileError, read_header


@dataclass(frozen=True)
class OpenWeights:
    """shapes: of every tensor, by its key; read: one tensor, mapped from the file where its format allows that, so that
    a copy is needed to keep it; metadata: of a torch.save file, the `trained_*` values beside its tensors."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    metadata: Mapping[str, str]


def open_weights(path: Path, belongs: Callable[[str], object] = lambda key: False) -> OpenWeights:
    """Open a safetensors or torch.save file.

    belongs: whether a key is one of the tensors that are wanted. A training checkpoint holds several dictionaries of
    tensors: the first with such a key is read, or else the largest.

    Raises WeightsFileError. `read` raises it too, for a tensor that has no plain values.
    """
    try:
        header = read_header(path)
    except WeightsFileError as error:
        if not error.pickle:
            raise
        return _open_torch(path, belongs)
    file = safe_open(path, framework="pt", device="cpu")
    return OpenWeights({key: info.shape for key, info in header.tensors.items()}, file.get_tensor, header.metadata)


def _open_torch(path: Path, belongs: Callable[[str], object]) -> OpenWeights:
    """Open what torch.save wrote: in its zip format the tensors stay in the file, in the older one they are read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises whatever it meets in a damaged file
        code = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's own text advises to run that code
        why = f"it holds {code[1]}, which is code" if code else "it is damaged, or torch.save did not write it"
        raise WeightsFileError(
            f"cannot be read as tensors alone: {why}. Save model.state_dict() alone where it was made, or download the "
            "file again."
        ) from None
    inner = list(_dictionaries(content))
    states = [{str(key): value for key, value in some.items() if torch.is_tensor(value)} for some in inner]
    state = next((state for state in states if any(map(belongs, state))), max(states, key=len, default={}))
    if not state:
        raise WeightsFileError("holds no tensors. Save model.state_dict() where it was made.")
    metadata = {
        key: str(value)
        for some in reversed(inner)  # the outermost has the last word
        for key, value in some.items()
        if str(key).startswith("trained_") and isinstance(value, str | int | float)
    }
    shapes = {key: () if value.is_nested else tuple(value.shape) for key, value in state.items()}
    return OpenWeights(shapes, lambda key: _dense(key, state[key]), metadata)


def _dictionaries(content: Any) -> Iterator[dict[Any, Any]]:
    """A dictionary and those inside it, the outermost first, each once because a pickle may hold itself."""
    waiting, seen = deque([content]), set()
    while waiting:
        found = waiting.popleft()
        if isinstance(found, dict) and id(found) not in seen:
            seen.add(id(found))
            waiting.extend(found.values())
            yield found


def _dense(key: str, value: torch.Tensor) -> torch.Tensor:
    """The tensor itself. Raises WeightsFileError for one that has no plain values."""
    if value.layout != torch.strided or value.is_meta or value.is_nested or value.is_quantized:
        raise WeightsFileError(f"holds {key} without plain values. Save it again as a dense tensor on the CPU.")
    return value
