"""Prompts that change over a clip, as ordinary conditioning with one row a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..temporal.clip.prompts import INTERPOLATIONS, Keyframe, Mix, equal_lengths, mix_keyframes, parse_schedule, spread
from ._api import io

NODE = "SAV_PromptSchedule"
EXAMPLE = "girl, blue hair,\n0: running\n25%: jumping\n12: landing"


class PromptSchedule(io.ComfyNode):
    """Encodes the prompts of a clip and gives each frame its own."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Prompt Schedule",
            category="SDXL Anime Video/conditioning",
            description="Prompts that change over a clip: one per keyframe, held or interpolated in between. The "
            "conditioning has one row a frame and goes wherever a text encoder's would.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of the SDXL model."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    placeholder=EXAMPLE,
                    dynamic_prompts=True,
                    tooltip="One prompt a keyframe: a frame number (-1 is the last) or a percentage, a colon, the "
                    "prompt. Lines without a position continue the prompt above; before the first position they are "
                    "put before every prompt. Lines that start with # are comments.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames in the clip, the same as the latent's: connect Empty Video Latent's frames.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="hold",
                    tooltip="hold: a prompt stays until the next keyframe. linear: an even change from keyframe to "
                    "keyframe. smooth: the same with a gentle start and end. slerp: an even turn of each embedding "
                    "vector, which keeps its strength on the way.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    tooltip="Width in pixels that SDXL is told the picture has. 0 is the latent's own; set both or "
                    "neither.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    tooltip="Height in pixels that SDXL is told the picture has. 0 is the latent's own; set both or "
                    "neither.",
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="0: prompts change at any frame. The segment_frames of Segment Chain: prompts change "
                    "only where a segment begins, and a segment keeps what its first new frame has.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="With segment_frames: the overlap of Segment Chain (0 if its carry is last_frame), so "
                    "that both count the same segments. Not used otherwise.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="Conditioning with one row a frame, for samplers, ControlNets and conditioning nodes.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        prompts: str,
        frames: int,
        interpolation: str,
        width: int = 0,
        height: int = 0,
        segment_frames: int = 0,
        overlap: int = 4,
    ) -> io.NodeOutput:
        if clip is None:
            raise ValueError(f"{NODE}: clip is empty; the checkpoint holds no text encoders, so load them on their own")
        keyframes = parse_schedule(prompts, frames, NODE)
        mixes = mix_keyframes(keyframes, frames, interpolation, segment_frames, overlap, NODE)
        encoded = _encode(clip, keyframes, _sizes(width, height))
        widths = _tower_widths(clip)
        # One entry, or one for each part of the noise schedule in which LoRA hooks change the text encoders.
        parts = zip(*encoded, strict=True)
        return io.NodeOutput([_one_row_a_frame(part, mixes, interpolation, widths) for part in parts])


def _sizes(width: int, height: int) -> dict[str, int]:
    """SDXL's size conditioning under core's keys; empty to leave it to the latent."""
    if width == height == 0:
        return {}
    if width < 1 or height < 1:
        raise ValueError(f"{NODE}: the size is {width}x{height}; set width and height, or leave both at 0")
    target = {"target_width": width, "target_height": height}
    return {"width": width, "height": height, "crop_w": 0, "crop_h": 0, **target}


def _encode(clip, keyframes: Sequence[Keyframe], sizes: dict[str, int]) -> list[list]:
    """Core's CONDITIONING of each keyframe's prompt; the same prompt is encoded once."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    found: dict[str, list] = {}
    for prompt in dict.fromkeys(keyframe.prompt for keyframe in keyframes):
        throw_exception_if_processing_interrupted()
        found[prompt] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt), add_dict=sizes)
    return [found[keyframe.prompt] for keyframe in keyframes]


def _tower_widths(clip) -> list[int]:
    """Lengths of CLIP-L's and CLIP-G's part of a token embedding; empty for other text encoders."""
    from comfy.sdxl_clip import SDXLClipModel

    model = clip.cond_stage_model
    if not isinstance(model, SDXLClipModel):
        return []
    return [tower.transformer.get_input_embeddings().weight.shape[1] for tower in (model.clip_l, model.clip_g)]


def _one_row_a_frame(
    keyframes: Sequence[Sequence[Any]], mixes: Sequence[Mix], interpolation: str, widths: Sequence[int]
) -> list:
    """One entry of the CONDITIONING, `[F, T, C]` with pooled `[F, P]`, out of the one that each keyframe has."""
    texts, infos = zip(*keyframes, strict=True)
    info = dict(infos[0])
    strange = [key for key, value in info.items() if isinstance(value, torch.Tensor) and key != "pooled_output"]
    if strange:
        raise ValueError(
            f"{NODE}: this clip gives {', '.join(strange)} with each prompt, which cannot be scheduled; use the clip "
            "of an SDXL model"
        )
    if info.get("pooled_output") is not None:
        info["pooled_output"] = spread([each["pooled_output"] for each in infos], mixes, interpolation)
    return [spread(equal_lengths(texts, NODE), mixes, interpolation, widths), info]
