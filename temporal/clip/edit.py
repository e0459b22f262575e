"""The frame contract at one step of sampling: which settings are in force, and what they do to the frames.

Every host calls these functions, so a clip sampled in ComfyUI and one sampled with diffusers follow the same rules.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .contract import FrameContract
from .frames import FrameInfo, pull_to_reference, smooth_frames


class Ranged(Protocol):
    """A setting that is in force over a part of the noise schedule."""

    @property
    def start_percent(self) -> float: ...

    @property
    def end_percent(self) -> float: ...


def in_range(setting: Ranged, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
    """Return whether a setting is in force at a noise level: both ends count, as in core's conditioning ranges.

    percent_to_sigma: noise level at a share of the model's schedule, 0 for pure noise.
    """
    return percent_to_sigma(setting.end_percent) <= sigma <= percent_to_sigma(setting.start_percent)


def anchored_rows(contract: FrameContract, frames: FrameInfo) -> list[torch.Tensor]:
    """Return the rows of the batch that each pull of a contract moves: its places without the first frame.

    Raises ValueError for a place outside the clip.
    """
    places = [[place for place in pull.places.rows(frames.length) if place > 0] for pull in contract.pulls]
    return [torch.isin(frames.index, torch.tensor(some)).nonzero()[:, 0] for some in places]


def edit(
    denoised: torch.Tensor,
    contract: FrameContract,
    anchored: Sequence[torch.Tensor],
    in_force: Callable[[Ranged], bool],
    first_frame: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the denoised frames `[F, C, h, w]` of one step, smoothed along time and anchored.

    anchored: see `anchored_rows`. in_force: whether a setting is in force at this step.
    first_frame: the clip's first `[C, h, w]`, in the scale of `denoised`, for a segment without it.
    """
    for smoothing in contract.smoothings:
        if in_force(smoothing):
            denoised = smooth_frames(denoised, smoothing.amount)
    for pull, rows in zip(contract.pulls, anchored, strict=True):
        if in_force(pull):
            first = denoised[0] if first_frame is None else first_frame
            denoised = pull_to_reference(denoised, rows, first, pull.strength, pull.band)
    return denoised


def hold(x: torch.Tensor, known: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the noisy frames `[F, C, h, w]` with the finished ones `known` `[K, C, h, w]` in front, at a noise level.

    noise: unit normal, of all frames. Core's inpainting does the same in ComfyUI.
    """
    count = len(known)
    return torch.cat([known + sigma * noise[:count], x[count:]]) if count else x
