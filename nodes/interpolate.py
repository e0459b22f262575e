"""A clip at another frame rate: frames between its frames by motion compensation."""

from __future__ import annotations

import torch

from ._api import io

NODE = "SAV_InterpolateFrames"


class InterpolateFrames(io.ComfyNode):
    """12 fps to 24: the frames of the clip stay, those between are computed from the motion around them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Interpolate Frames",
            category="SDXL Anime Video/video",
            description="Brings a clip to another frame rate. The frames between follow the motion; no model is "
            "needed. A lower rate drops frames.",
            inputs=[
                io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped."),
                io.Float.Input(
                    "fps_in",
                    default=12.0,
                    min=0.01,
                    max=240.0,
                    step=0.001,
                    tooltip="Frames per second that these frames were made for.",
                ),
                io.Float.Input(
                    "fps_out",
                    default=24.0,
                    min=0.01,
                    max=240.0,
                    step=0.001,
                    tooltip="Frames per second wanted. Twice fps_in turns F frames into 2F - 1; the same rate changes "
                    "nothing; a lower one drops frames.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "interpolated", display_name="images", tooltip="The clip at the new rate, first frame to last."
                ),
                io.Float.Output("fps", display_name="fps", tooltip="The new rate, for the node that saves the clip."),
            ],
        )

    @classmethod
    def execute(cls, images, fps_in=12.0, fps_out=24.0) -> io.NodeOutput:
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one frame [F, H, W, 3]")
        try:
            return io.NodeOutput(_at_rate(images[..., :3], fps_in, fps_out), float(fps_out))
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error


def _at_rate(images: torch.Tensor, fps_in: float, fps_out: float) -> torch.Tensor:
    """`[F, H, W, 3]` at the new rate; the clip's own frames are taken as they are."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    from ..media.interpolation import frame_count, frame_positions, iter_between
    from ..media.pixels import to_uint8

    _require_room(images, frame_count(len(images), fps_in, fps_out), fps_in, fps_out)
    places = frame_positions(len(images), fps_in, fps_out)
    if all(place.denominator == 1 for place in places):
        whole = [int(place) for place in places]
        return images if whole == list(range(len(images))) else images[whole]
    pictures = (to_uint8(image, name=f"frame {index}") for index, image in enumerate(images))
    result = images.new_empty(len(places), *images.shape[1:])
    bar = ProgressBar(len(places))
    for index, (place, between) in enumerate(zip(places, iter_between(pictures, 1 / places[1]), strict=True)):
        throw_exception_if_processing_interrupted()
        result[index] = images[int(place)] if place.denominator == 1 else torch.from_numpy(between).to(result) / 255
        bar.update_absolute(index + 1)
    return result


def _require_room(images: torch.Tensor, count: int, fps_in: float, fps_out: float) -> None:
    """Raise ValueError if so many frames, more than there are, do not fit into the memory that is free."""
    from comfy.model_management import get_free_memory

    needed, free = count * images[0].numel() * images.element_size(), get_free_memory(images.device)
    if count > len(images) and needed > free:
        raise ValueError(
            f"{len(images)} frames from {fps_in:g} to {fps_out:g} fps are {count:,} frames of "
            f"{images.shape[2]}x{images.shape[1]} px and need {needed / 2**30:,.1f} GB of memory; {free / 2**30:,.1f} "
            "GB are free. Check both rates; lower fps_out, or interpolate the clip in parts"
        )
