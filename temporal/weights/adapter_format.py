"""The temporal adapter's file format, checked by names, shapes and dtypes alone.

Keys are `<diffusers path of the transformer block>.temporal_attn.<part>`, see `_shapes`. Metadata: `format`,
`format_version`, `max_frames`, `head_dim` (64 if left out), `trained_frames`, and whatever else the trainer records as
`trained_*`.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping

from ..layers.adapter import AdapterConfig
from .header import TensorInfo, WeightsFileError
from .known_files import recognise
from .listing import listed, quoted
from .values import TORCH_DTYPES

FORMAT = "sdxl-temporal-adapter"
VERSION = "1"
HEAD_DIM = 64
CONVERT = "Convert it with `sdxl-anime-video convert SOURCE OUT.safetensors`."
_KEY = re.compile(
    r"((?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+)\.temporal_attn\.([\w.]+)"
)


def is_adapter_key(key: str) -> bool:
    """Return whether a key belongs to an adapter, perhaps under the prefixes of a model."""
    return ".temporal_attn." in key


def split_key(key: str) -> tuple[str, str] | None:
    """Return (block path, part) of one of the format's keys, or None for any other key."""
    match = _KEY.fullmatch(key)
    return (match[1], match[2]) if match else None


def reject_other_files(keys: Collection[str]) -> None:
    """Raise WeightsFileError for a file of another kind, and for an adapter saved inside a whole model."""
    others = [key for key in keys if split_key(key) is None]
    kind = recognise(others)
    alone = len(others) == len(keys)
    if kind and alone:
        raise WeightsFileError(f"is {kind.what}, not a temporal adapter. {kind.remedy}")
    if kind:
        raise WeightsFileError(f"holds an adapter together with {kind.what}, as a model's state_dict does. {CONVERT}")
    if alone:
        raise WeightsFileError(
            f"has no key of a temporal adapter (its keys: {listed(others) or 'none at all'}). Choose the "
            "adapter's file."
        )


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise WeightsFileError unless the metadata declare this format in a version that is read here."""
    if metadata.get("format") != FORMAT:
        said = f"say format={quoted(metadata['format'])}" if "format" in metadata else "do not say so"
        raise WeightsFileError(f"is not marked as format={FORMAT}: its metadata {said}. {CONVERT}")
    version = metadata.get("format_version")
    if version != VERSION:
        raise WeightsFileError(
            f"has format_version={quoted(version)}; this version of the pack reads {VERSION!r}. Update the pack, or "
            "convert or train the adapter again."
        )


def check_tensors(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> AdapterConfig:
    """Return the configuration that the tensors and the numbers in the metadata describe.

    Raises WeightsFileError for keys that are missing, unexpected, misshapen or of a wrong dtype, and for numbers in the
    metadata that disagree: it names three and counts the rest, and the log has all at level DEBUG.
    """
    sites: dict[str, dict[str, TensorInfo]] = {}
    problems = []
    for key, info in tensors.items():
        place = split_key(key)
        if place is None:
            problems.append(f"unexpected key {key}")
        else:
            sites.setdefault(place[0], {})[place[1]] = info
    head_dim = _number(metadata, "head_dim", HEAD_DIM, problems)
    frames = {parts["pos_emb"].shape[0] for parts in sites.values() if len(parts.get("pos_emb", _NONE).shape) == 2}
    there = {part for parts in sites.values() for part in parts}
    norm, pos_value = "norm.weight" in there or "norm.bias" in there, "pos_value" in there
    max_frames = _number(metadata, "max_frames", max(frames, default=1), problems)
    trained = _number(metadata, "trained_frames", 1, problems)
    if max_frames < 1:
        problems.append("pos_emb has no positions")
    if trained > max_frames:
        problems.append(f"metadata say trained_frames={trained}, more than max_frames={max_frames}")

    dims = {path: _channels(parts) for path, parts in sites.items()}
    for path, dim in dims.items():
        if not dim or dim % head_dim:
            problems.append(f"{path} has {dim} channels, which heads of {head_dim} (metadata head_dim) do not divide")
        problems += _site_problems(path, sites[path], _shapes(dim, max_frames, norm, pos_value))
    if problems:
        logging.debug("a temporal adapter does not hold together: %s", "; ".join(problems))
        raise WeightsFileError(
            f"does not hold together: {listed(problems, '; ')}. Export or download the adapter again."
        )
    return AdapterConfig({path: (dim, dim // head_dim) for path, dim in dims.items()}, max_frames, norm, pos_value)


_NONE = TensorInfo("", ())


def _channels(parts: Mapping[str, TensorInfo]) -> int:
    """Return the channels of a site by its first matrix of sound rank, 0 if it has none."""
    shapes = (parts.get(part, _NONE).shape for part in ("to_qkv.weight", "proj.weight", "pos_emb"))
    return next((shape[1] for shape in shapes if len(shape) == 2), 0)


def _shapes(dim: int, max_frames: int, norm: bool, pos_value: bool) -> dict[str, tuple[int, ...]]:
    """Return part -> shape of one site; all sites or none have `norm`, and `pos_value`."""
    shapes: dict[str, tuple[int, ...]] = {
        "to_qkv.weight": (3 * dim, dim),
        "to_qkv.bias": (3 * dim,),
        "proj.weight": (dim, dim),
        "proj.bias": (dim,),
        "pos_emb": (max_frames, dim),
        "gate": (1,),
    }
    if norm:
        shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    if pos_value:
        shapes["pos_value"] = (max_frames, dim)
    return shapes


def _site_problems(path: str, parts: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    """Yield the problems of the tensors of one site, which should have these shapes."""
    for part, shape in shapes.items():
        key = f"{path}.temporal_attn.{part}"
        info = parts.get(part)
        if info is None:
            yield f"missing key {key}"
            continue
        if info.dtype not in TORCH_DTYPES:
            yield f"wrong dtype {info.dtype} of {key} (one of {', '.join(TORCH_DTYPES)} is right)"
        if info.shape != shape and not (part == "gate" and info.shape == ()):
            yield f"wrong shape {list(info.shape)} of {key} ({list(shape)} is right)"
    for part in parts:
        if part not in shapes:
            yield f"unexpected key {path}.temporal_attn.{part}"


def _number(metadata: Mapping[str, str], name: str, default: int, problems: list[str]) -> int:
    """Return a positive whole number from the metadata; a wrong value is added to `problems`."""
    text = metadata.get(name)
    if text is None:
        return default
    if re.fullmatch(r"[1-9]\d{0,5}", text):
        return int(text)
    problems.append(f"metadata say {name}={quoted(text)}, which is no positive whole number")
    return default
