"""A LoRA file on a MODEL and a CLIP, by ComfyUI's own loader: does it fit, and what of it takes effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.utils
import torch

from ...lora.file import EARLIER, SDXL, LoraFile
from ...lora.keys import LoraError, core_keys, core_name, split_key
from ...weights.header import DOWNLOAD_AGAIN
from ...weights.listing import listed
from ...weights.peft_scaling import Settings, read_settings, scaling


@dataclass(frozen=True)
class Fit:
    """Layers of a file that a model has (unet, text), has not (unmatched), or has in another size (misshapen)."""

    unet: int
    text: int
    unmatched: tuple[str, ...]
    misshapen: tuple[str, ...]


def check_fit(model, clip, lora: LoraFile) -> Fit:
    """What of a LoRA takes effect on a MODEL and its CLIP (or None).

    Raises LoraError for a LoRA of another base model, and for one of which nothing would take effect.
    """
    own = _context(model)
    if lora.context not in (None, own):
        raise LoraError(
            f"is a LoRA for {lora.base or 'another model'}: its cross-attention takes {lora.context} values a token, "
            f"this MODEL's {own}. Choose a LoRA that was trained on this model's family."
        )
    fit = _fit(model, clip, lora)
    whole = not fit.unmatched and not fit.misshapen
    other = lora.base not in (None, SDXL) and lora.context is None
    if other and not (lora.base == EARLIER and whole):
        raise LoraError(f"is a LoRA for {lora.base} ({lora.base_from}). Choose one for SDXL.")
    if not fit.unet and not fit.text:
        names = listed((*fit.unmatched, *fit.misshapen))
        raise LoraError(f"has no layer that fits this MODEL (its layers: {names}). Choose a LoRA for SDXL.")
    return fit


def _context(model) -> int:
    width = model.model.model_config.unet_config["context_dim"]
    return width[0] if isinstance(width, list | tuple) else width


def _fit(model, clip, lora: LoraFile) -> Fit:
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = model.model.state_dict()
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
        weights = weights | clip.cond_stage_model.state_dict()
    fits, unmatched, misshapen = [], [], []
    for module, size in lora.layers.items():
        target = names.get(core_name(module))
        key, *part = [target] if isinstance(target, str) else target or [""]
        if key not in weights:  # core also names layers that only some models have
            unmatched.append(module)
        elif size and not part and not _same_size(weights[key], size):
            misshapen.append(module)
        else:
            fits.append(key.startswith("diffusion_model."))
    return Fit(fits.count(True), fits.count(False), tuple(unmatched), tuple(misshapen))


def _same_size(weight: torch.Tensor, size: tuple[int, int]) -> bool:
    if not weight.is_floating_point():  # quantised: several values packed into one
        return True
    return weight.shape[0] == size[0] and weight.numel() == size[0] * size[1]


def apply_lora(model, clip, path: Path, weight: float, clip_weight: float):
    """(MODEL, CLIP) with the LoRA of a file at these weights, as core's LoraLoader puts it on.

    Tensors that diffusers or PEFT named are found too, which core's loader would pass over.

    Raises LoraError for tensors that are not finite, and for layers that lack a part.
    """
    weights, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    broken = [key for key, value in weights.items() if value.is_floating_point() and not _finite(value)]
    if broken:
        raise LoraError(f"holds NaN or infinity in {len(broken)} tensors ({broken[0]}). {DOWNLOAD_AGAIN}")
    named = _as_kohya(weights, read_settings(path, metadata or {}))
    try:
        return comfy.sd.load_lora_for_models(model, clip, named, weight, clip_weight)
    except KeyError as error:  # a part that a layer's other parts want
        raise LoraError(f"lacks {error}. {DOWNLOAD_AGAIN}") from None


def _finite(value: torch.Tensor) -> bool:
    # torch's own isfinite does not know every type of 8 bits
    return bool((value.float() if value.element_size() == 1 else value).isfinite().all())


def _as_kohya(weights: Mapping[str, torch.Tensor], settings: Settings) -> dict[str, torch.Tensor]:
    """The weights under kohya's names, with an alpha for each layer that PEFT's settings scale and that has none."""
    names = core_keys(weights)
    named = {names[key]: value for key, value in weights.items()}
    for key, value in weights.items():
        module, part = split_key(key) or ("", "")
        alpha = f"{core_name(module)}.alpha"
        if part == "lora_down.weight" and alpha not in named:
            rank = len(value)
            scale = scaling(settings, module, rank)
            if scale != 1:
                named[alpha] = torch.tensor(scale * rank)
    return named


def require_sdxl(model) -> None:
    """Raise ValueError for a MODEL that is none of SDXL's family."""
    if not isinstance(model.model, comfy.model_base.SDXL):
        raise ValueError(f"this MODEL is {type(model.model).__name__}, not SDXL; load an SDXL checkpoint")
