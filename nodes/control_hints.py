"""Hints for ControlNets out of frames."""

from __future__ import annotations

import torch

from ..media.hints import KINDS
from ..temporal.frames import parse_positions, resolve_positions
from ._api import io

NODE = "SAV_ControlHints"


class ControlHints(io.ComfyNode):
    """Finds the lines of every frame, or of keyframes only."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Control Hints",
            category="SDXL Anime Video/conditioning",
            description="Draws what a ControlNet is to follow out of the frames of a clip: canny, the edges. Frame by "
            "frame, in memory that does not grow with the work.",
            inputs=[
                io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped."),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="canny",
                    tooltip="What is drawn. canny: edges, one pixel wide; needs no weights.",
                ),
                io.Int.Input(
                    "resolution",
                    default=768,
                    min=0,
                    max=8192,
                    step=64,
                    tooltip="Shorter side of the hints in pixels; both sides are rounded to multiples of 64. The size "
                    "of your clip is best, for thin lines do not survive scaling. 0: the size of the images.",
                ),
                io.Int.Input(
                    "low",
                    default=100,
                    min=0,
                    max=2000,
                    optional=True,
                    tooltip="canny: how steep a pixel must be that continues an edge. Lower draws longer lines.",
                ),
                io.Int.Input(
                    "high",
                    default=200,
                    min=0,
                    max=2000,
                    optional=True,
                    tooltip="canny: how steep a pixel must be that begins an edge. Higher draws fewer lines.",
                ),
                io.String.Input(
                    "keyframes",
                    default="",
                    optional=True,
                    tooltip="Only these frames, such as 0, 25%, 50%, -1; the others cost nothing. Empty: every frame.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "hints", display_name="images", tooltip="The hints in order: one a frame, or one a keyframe."
                )
            ],
        )

    @classmethod
    def execute(
        cls, images, kind: str, resolution: int, low: int = 100, high: int = 200, keyframes: str = ""
    ) -> io.NodeOutput:
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one frame [F, H, W, 3]")
        if kind not in KINDS:
            raise ValueError(f"{NODE}: kind is {kind!r}; choose one of {', '.join(KINDS)}")
        if resolution < 0:
            raise ValueError(f"{NODE}: resolution is {resolution}; it must be 0 or more pixels")
        if not 0 <= low <= high:
            raise ValueError(f"{NODE}: low is {low} and high {high}; low must lie between 0 and high")
        places = parse_positions(keyframes, NODE)
        rows = resolve_positions(places, len(images), NODE) if places else list(range(len(images)))
        try:
            return io.NodeOutput(_drawn(images, rows, resolution, low, high))
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error


def _drawn(images: torch.Tensor, rows: list[int], resolution: int, low: int, high: int) -> torch.Tensor:
    """Hints `[K, h, w, 3]` of the frames at `rows`, one after another."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    from ..media.hints import canny, hint_size, resized
    from ..media.pixels import to_uint8

    size = hint_size(images.shape[1], images.shape[2], resolution)
    result = torch.empty(len(rows), *size, 3)
    bar = ProgressBar(len(rows))
    for place, row in enumerate(rows):
        throw_exception_if_processing_interrupted()
        picture = resized(to_uint8(images[row], name=f"frame {row}"), *size)
        result[place] = torch.from_numpy(canny(picture, low, high)) / 255
        bar.update_absolute(place + 1)
    return result
