"""A clip at another frame rate, in ComfyUI's memory and under its progress bar."""

import torch
from comfy.model_management import get_free_memory, throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from .....media.interpolation import frame_count, frame_positions, iter_between
from .....media.pixels import to_uint8


def at_rate(images: torch.Tensor, fps_in: float, fps_out: float) -> torch.Tensor:
    """Return frames `[F, H, W, 3]` at another rate; the clip's own frames are copied unchanged.

    Raises ValueError for rates that cannot be, and for more frames than fit into free memory.
    """
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
    """Raise ValueError if `count` frames, more than there are now, do not fit into free memory."""
    needed, free = count * images[0].numel() * images.element_size(), get_free_memory(images.device)
    if count > len(images) and needed > free:
        raise ValueError(
            f"{len(images)} frames from {fps_in:g} to {fps_out:g} fps are {count:,} frames of "
            f"{images.shape[2]}x{images.shape[1]} px and need {needed / 2**30:,.1f} GB of memory; {free / 2**30:,.1f} "
            "GB are free. Check both rates; lower fps_out, or interpolate the clip in parts"
        )
