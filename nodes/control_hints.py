"""Hints for ControlNets out of frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from ..media.hints import KINDS, canny, hint_size, resized
from ..temporal.clip.keyframes import ALL, keyframe_rows
from ._api import io
from ._hint_weights import FOLDER, PUBLISHED, find, obtain, read_tensors, stamp

NODE = "SAV_ControlHints"
PIXEL = 4096
"""Bytes of activations for a pixel: the first layers of most networks have 64 channels of float32 at full size."""
Draw = Callable[[np.ndarray], np.ndarray]


class ControlHints(io.ComfyNode):
    """Draws poses, depth, lines or edges of every frame, or of keyframes only."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Control Hints",
            category="SDXL Anime Video/conditioning",
            description="Draws what a ControlNet is to follow out of the frames of a clip: poses, depth, lines or "
            "edges. Frame by frame, in memory that does not grow with the clip. All kinds but canny want weights.",
            inputs=[
                io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped."),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="canny",
                    tooltip="What is drawn. openpose: skeletons. depth: near is white. lineart, lineart_anime: drawn "
                    "lines. softedge: outlines, thick where they are strong. canny: edges, one pixel wide; needs no "
                    "weights.",
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
                io.Boolean.Input(
                    "hand", default=False, optional=True, tooltip="openpose: also fingers. Wants one more file."
                ),
                io.Boolean.Input(
                    "face", default=False, optional=True, tooltip="openpose: also points of faces. Wants one more file."
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip=f"Fetch missing weights from huggingface.co/{PUBLISHED} into models/{FOLDER}. Off: nothing "
                    "is ever downloaded.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "hints", display_name="images", tooltip="The hints in order: one a frame, or one a keyframe."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, kind: str = "", hand: bool = False, face: bool = False, **_):
        from ..media.detectors import files_of

        # the path stays out: it would be written into every saved clip
        return "/".join(str(stamp(file)[1:]) for name in files_of(kind, hand, face) if (file := find(name)))

    @classmethod
    def execute(
        cls,
        images,
        kind: str,
        resolution: int,
        low: int = 100,
        high: int = 200,
        keyframes: str = "",
        hand: bool = False,
        face: bool = False,
        download: bool = False,
    ) -> io.NodeOutput:
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one frame [F, H, W, 3]")
        if kind not in KINDS:
            raise ValueError(f"{NODE}: kind is {kind!r}; choose one of {', '.join(KINDS)}")
        if resolution < 0:
            raise ValueError(f"{NODE}: resolution is {resolution}; it must be 0 or more pixels")
        if not 0 <= low <= high:
            raise ValueError(f"{NODE}: low is {low} and high {high}; low must lie between 0 and high")
        rows = keyframe_rows(keyframes.strip() or ALL, len(images), NODE)
        try:
            size = hint_size(images.shape[1], images.shape[2], resolution)
            if kind == "canny":
                draw = partial(canny, low=low, high=high)
            else:
                draw = _detector(kind, hand, face, download, size)
            return io.NodeOutput(_drawn(images, rows, size, draw))
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except (OSError, ImportError) as error:
            raise type(error)(f"{NODE}: {error}") from error


def _detector(kind: str, hand: bool, face: bool, download: bool, size: tuple[int, int]) -> Draw:
    """The kind's networks, on the device that core chooses for models.

    They are none of core's and cannot be loaded in part. size: height and width of the pictures to come.
    """
    from comfy.model_management import load_models_gpu

    from ..media.detectors import files_of

    names = files_of(kind, hand, face)
    files = obtain(names, kind, download)
    patcher = _loaded(kind, tuple(zip(names, map(stamp, files), strict=True)))
    load_models_gpu([patcher], memory_required=size[0] * size[1] * PIXEL, force_full_load=True)
    return patcher.model.to(patcher.load_device)  # ComfyUI's --novram leaves some of them behind


@lru_cache(maxsize=1)
def _loaded(kind: str, files: tuple[tuple[str, tuple[Path, int, int]], ...]):
    """A ModelPatcher of the kind's networks, kept until another is asked for. files: name -> where it lies, stamped."""
    from ..media.detectors import build
    from ..temporal.hosts.comfy.layers.planned import as_patcher

    return as_patcher(build(kind, {name: read_tensors(path) for name, (path, *_) in files}))


def _drawn(images: torch.Tensor, rows: list[int], size: tuple[int, int], draw) -> torch.Tensor:
    """Hints `[K, h, w, 3]` of the frames at `rows`, one after another."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    from ..media.pixels import to_uint8

    result = torch.empty(len(rows), *size, 3)
    bar = ProgressBar(len(rows))
    for place, row in enumerate(rows):
        throw_exception_if_processing_interrupted()
        picture = resized(to_uint8(images[row], name=f"frame {row}"), *size)
        result[place] = torch.from_numpy(draw(picture)) / 255
        bar.update_absolute(place + 1)
    return result
