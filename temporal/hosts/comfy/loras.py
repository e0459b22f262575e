"""LoRAs on a MODEL and a CLIP, put on by ComfyUI's own loader: whether they fit, and which layers take effect."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_management import throw_exception_if_processing_interrupted

from ...lora.file import EARLIER, SDXL, LoraFile, describe, hashes
from ...lora.keys import LoraError, core_keys, core_name, split_key
from ...lora.report import Entry, Fit
from ...lora.stack import Choice
from ...weights.header import DOWNLOAD_AGAIN, WeightsFileError, read_header
from ...weights.listing import listed
from ...weights.peft_scaling import Settings, read_settings, scaling


def path_of(choice: Choice) -> Path:
    """Return the path of a LoRA's file. Raises FileNotFoundError for one that is listed and yet cannot be opened."""
    path = folder_paths.get_full_path("loras", choice.name)
    if path is None:  # core lists links without a target too
        raise FileNotFoundError(
            f"{choice.source} {choice.name!r} is a link to a file that is missing, or it has just been removed; put "
            "the file itself into models/loras"
        )
    return Path(path)


def apply_stack(model, clip, choices: Sequence[Choice]):
    """Return (MODEL, CLIP, [Entry]) with the LoRAs put on in their order.

    Raises LoraError, naming the input and the file, and what `path_of` and `require_sdxl` raise.
    """
    require_sdxl(model)
    paths = [path_of(choice) for choice in choices]
    sizes = [path.stat().st_size for path in paths]
    bar = comfy.utils.ProgressBar(max(sum(sizes), 1))
    entries = []
    for choice, path, start in zip(choices, paths, accumulate(sizes, initial=0), strict=False):
        try:
            file = describe(read_header(path))
            fit = check_fit(model, clip, file)
            entries.append(Entry(choice, file, fit, *hashes(path, partial(_advance, bar, start))))
            if not choice.off:
                model, clip = apply_lora(model, clip, path, choice.weight, choice.clip_weight)
        except (WeightsFileError, LoraError) as error:
            remedy = " Save it as safetensors." if getattr(error, "pickle", False) else ""
            raise LoraError(f"{choice.source}: {choice.name} {error}{remedy}") from None
    return model, clip, entries


def _advance(bar: comfy.utils.ProgressBar, start: int, read: int) -> None:
    """Move the bar over the bytes of all files; start: bytes of the files before this one, read: of this one."""
    throw_exception_if_processing_interrupted()
    bar.update_absolute(start + read)


def check_fit(model, clip, lora: LoraFile) -> Fit:
    """Return which layers of a LoRA take effect on a MODEL and its CLIP (or None).

    Raises LoraError for a LoRA of another base model, and for a LoRA without any layer that fits.
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
    """Return (MODEL, CLIP) with a file's LoRA at these weights, equal to the result of core's LoraLoader.

    It also finds tensors under the names of diffusers and PEFT, which core's loader skips.

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
    # torch.isfinite does not know every 8-bit type
    return bool((value.float() if value.element_size() == 1 else value).isfinite().all())


def _as_kohya(weights: Mapping[str, torch.Tensor], settings: Settings) -> dict[str, torch.Tensor]:
    """Return the weights under kohya's names; a layer without an alpha gets the one that PEFT's settings mean."""
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
