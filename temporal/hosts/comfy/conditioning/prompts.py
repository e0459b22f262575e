"""A prompt schedule as core's CONDITIONING with one row a frame."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.sdxl_clip import SDXLClipModel

from ....clip.prompts import Keyframe, Mix, equal_lengths, spread


def schedule_conditioning(
    clip, keyframes: Sequence[Keyframe], mixes: Sequence[Mix], interpolation: str, size: tuple[int, int]
) -> list:
    """Return the CONDITIONING of a clip: `[F, T, C]` with pooled `[F, P]`.

    clip: core's CLIP. mixes: one a frame. size: SDXL's size conditioning, width and height; (0, 0): the latent's.

    Raises ValueError for a size with only one side, for prompts whose lengths do not go together and for a CLIP that is
    not SDXL's.
    """
    encoded = _encode(clip, keyframes, _size_keys(*size))
    widths = _tower_widths(clip)
    # One entry, or one for each part of the noise schedule in which LoRA hooks change the text encoders.
    return [_one_row_a_frame(part, mixes, interpolation, widths) for part in zip(*encoded, strict=True)]


def _size_keys(width: int, height: int) -> dict[str, int]:
    """Return SDXL's size conditioning under core's keys; none leaves it to the latent."""
    if width == height == 0:
        return {}
    if width < 1 or height < 1:
        raise ValueError(f"the size is {width}x{height}; set width and height, or leave both at 0")
    target = {"target_width": width, "target_height": height}
    return {"width": width, "height": height, "crop_w": 0, "crop_h": 0, **target}


def _encode(clip, keyframes: Sequence[Keyframe], size: dict[str, int]) -> list[list]:
    """Return core's CONDITIONING of each keyframe's prompt. Equal prompts are encoded once."""
    found: dict[str, list] = {}
    for prompt in dict.fromkeys(keyframe.prompt for keyframe in keyframes):
        throw_exception_if_processing_interrupted()
        found[prompt] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt), add_dict=size)
    return [found[keyframe.prompt] for keyframe in keyframes]


def _tower_widths(clip) -> list[int]:
    """Return the widths of CLIP-L's and CLIP-G's parts of a token embedding; none for other text encoders."""
    model = clip.cond_stage_model
    if not isinstance(model, SDXLClipModel):
        return []
    return [tower.transformer.get_input_embeddings().weight.shape[1] for tower in (model.clip_l, model.clip_g)]


def _one_row_a_frame(
    keyframes: Sequence[Sequence[Any]], mixes: Sequence[Mix], interpolation: str, widths: Sequence[int]
) -> list:
    """Return one entry of the CONDITIONING, made from the entries of the keyframes."""
    texts, infos = zip(*keyframes, strict=True)
    info = dict(infos[0])
    strange = [key for key, value in info.items() if isinstance(value, torch.Tensor) and key != "pooled_output"]
    if strange:
        raise ValueError(
            f"this clip gives {', '.join(strange)} with each prompt, which cannot be scheduled; use the clip of an "
            "SDXL model"
        )
    if info.get("pooled_output") is not None:
        info["pooled_output"] = spread([each["pooled_output"] for each in infos], mixes, interpolation)
    return [spread(equal_lengths(texts), mixes, interpolation, widths), info]
