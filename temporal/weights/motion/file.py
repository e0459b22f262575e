"""Reading and writing files of motion modules.

A file is read tensor by tensor into the dtype that is asked for, so that no second copy of it is ever held.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...layers.motion_module import MotionModule
from ..header import WeightsFileError, naming
from ..listing import quoted
from ..torch_file import open_weights
from ..values import TORCH_DTYPES, require_finite, write_finite
from .keys import read_contents, split_key

FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)


def load_motion_module(path: str | Path, operations: Any = nn, dtype: torch.dtype | None = None) -> MotionModule:
    """Return the motion module of a file, on the CPU, in `dtype` or else the file's own; warn if it is silent.

    path: a .safetensors or torch.save file (.ckpt, .pt, .pth, .bin; no code in it is ever run), or a folder of
    diffusers' MotionAdapter. operations: as for MotionModule.

    Raises WeightsFileError, naming the file, if it is anything but a sound motion module for SDXL.
    """
    path = Path(path)
    with naming(path):
        file, settings = _from_folder(path) if path.is_dir() else (path, _beside(path))
        opened = open_weights(file, split_key)
        metadata = opened.metadata
        settings = _counts({name: metadata[name] for name in ("heads", "groups") if name in metadata} | settings)
        contents = read_contents(opened.shapes, **settings, betas=_betas(metadata))
        if contents.aside:
            logging.warning(
                "%s: %d tensors of a UNet beside the motion module are not loaded.", path.name, len(contents.aside)
            )
        weights = _weights(contents.names, opened.read, dtype)
    module = MotionModule.around(
        contents.config, weights, metadata=metadata, operations=operations, name=contents.layout.title
    )
    if warning := module.silent_warning():
        logging.warning("%s: %s.", path.name, warning)
    return module


def save_motion_module(module: MotionModule, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module as safetensors under AnimateDiff's names or Hotshot-XL's, whole or not at all.

    metadata: added to the module's own; the betas of the training, heads and groups are always there.

    Raises WeightsFileError for a tensor that is not finite and where the file cannot be written.
    """
    weights = {published_name(module.format, key): value for key, value in module.state_dict().items()}
    start, end = module.beta_schedule
    said = {**module.metadata, **(metadata or {}), "beta_start": repr(float(start)), "beta_end": repr(float(end))}
    said |= {"heads": str(module.config.heads), "groups": str(module.config.groups)}  # no tensor tells these
    write_finite(Path(path), weights, said)


def convert_motion_module(source: str | Path, target: str | Path, dtype: torch.dtype | None = None) -> str:
    """Write a motion module of any layout as safetensors and describe it. dtype: None keeps the file's.

    Raises WeightsFileError.
    """
    module = load_motion_module(source, dtype=dtype)
    save_motion_module(module, target)
    return module.describe()


def published_name(format: str, key: str) -> str:
    """Return the name of one of our keys in the files of a format's authors."""
    site, _, part = key.partition(".motion_modules.")
    layer, _, part = part.partition(".")
    if format == "hotshot":
        return (
            f"{site}.temporal_attentions.{layer}.{part.replace('.pos_encoder.pe', '.pos_encoder.positional_encoding')}"
        )
    return f"{site}.motion_modules.{layer}.temporal_transformer.{part}"


def _weights(
    names: Mapping[str, tuple[str, ...]], read: Callable[[str], torch.Tensor], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Return our name -> tensor with memory of its own. Raises WeightsFileError for NaN and infinity."""
    weights, read_values = {}, {}
    for key, ours in names.items():
        found = read(key)
        if found.dtype not in (*TORCH_DTYPES.values(), torch.float64):
            raise WeightsFileError(
                f"has values of {found.dtype} in {key}; weights are float32, float16 or bfloat16. Export it again."
            )
        read_values[key] = value = found.detach().to(dtype or found.dtype, copy=True).contiguous()
        weights |= {name: value if i == 0 else value.clone() for i, name in enumerate(ours)}
    require_finite(read_values)
    return weights


def _betas(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the schedule in the metadata, None without one. Raises WeightsFileError if it is impossible."""
    if "beta_start" not in metadata and "beta_end" not in metadata:
        return None
    try:
        start, end = float(metadata["beta_start"]), float(metadata["beta_end"])
    except (KeyError, ValueError):
        start, end = 1.0, 0.0
    if not 0 < start < end < 1:
        raise WeightsFileError(
            f"has beta_start={metadata.get('beta_start')!r} and beta_end={metadata.get('beta_end')!r} in its metadata; "
            "a noise schedule has 0 < beta_start < beta_end < 1. Export it again."
        )
    return start, end


def _from_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the weights and settings of a folder that diffusers' MotionAdapter.save_pretrained wrote."""
    settings = _settings(_config(folder))
    file = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsFileError(f"is a folder with a config.json but none of {', '.join(FOLDER_FILES)}. Fetch one.")
    return file, settings


def _beside(file: Path) -> dict[str, Any]:
    """Return the settings beside a MotionAdapter's file, because ComfyUI's lists offer the file and not its folder."""
    if file.name not in FOLDER_FILES:
        return {}
    try:
        config = _config(file.parent)
    except (OSError, WeightsFileError):
        return {}  # there is none, or it belongs to something else
    return _settings(config)


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a MotionAdapter. Raises WeightsFileError if the folder has none."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsFileError("is a folder without a config.json. Choose the file of the motion module.") from None
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"has a config.json that is no JSON ({error}). Download it again.") from None
    if not isinstance(config, dict) or config.get("_class_name") != "MotionAdapter":
        raise WeightsFileError("is a folder whose config.json is not of diffusers' MotionAdapter. Choose another.")
    return config


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return heads and groups of a MotionAdapter. Raises WeightsFileError for one that cannot be run here."""
    if config.get("conv_in_channels"):
        raise WeightsFileError("is a MotionAdapter with an input layer of its own (as PIA), which is not for SDXL.")
    heads = config.get("motion_num_attention_heads", 8)
    if isinstance(heads, list):
        if len({str(one) for one in heads}) != 1:
            raise WeightsFileError(f"has {heads} attention heads at its UNet levels; they must be the same at each.")
        heads = heads[0]
    return {"heads": heads, "groups": config.get("motion_norm_num_groups", 32)}


def _counts(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return heads and groups as numbers. Raises WeightsFileError for other values."""
    counts = {}
    for name, value in settings.items():
        number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,4}", value) else value
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise WeightsFileError(
                f"has {name} = {quoted(value)}, which must be a positive whole number. Export it again."
            )
        counts[name] = number
    return counts
