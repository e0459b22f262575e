"""Noise that a sampler adds at its steps: each frame's depends on its place in the clip."""

import copy
import inspect
from collections.abc import Callable, Iterable
from functools import partial

import torch

from ....clip.contract import NoiseSettings
from ....clip.noise import brownian_stream, normal_stream, step_noise


def with_step_noise(
    sampler, settings: NoiseSettings, index: Iterable[int], shape: torch.Size, device: torch.device, seed: int
):
    """Return the sampler with correlated noise at its steps; samplers without a `noise_sampler` stay as they are.

    index: the frames' places in the clip; shape: one frame's, `[C, h, w]`; device: where the sampler computes.
    The SAMPLER itself may be shared with other graphs and stays as it is.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None or not _takes_noise_sampler(function):
        return sampler
    stream = brownian_stream if _asks_overlapping_intervals(function) else normal_stream
    freenoise = {"seed": seed, "window": settings.window, "overlap": settings.overlap}
    frame_noise = partial(stream, seed, shape=shape)
    draw = step_noise(index, settings.mode, settings.correlation, frame_noise, **freenoise)
    changed = copy.copy(sampler)
    changed.extra_options = {
        **sampler.extra_options,
        "noise_sampler": lambda sigma, sigma_next: draw(float(sigma), float(sigma_next)).to(device),
    }
    return changed


def _takes_noise_sampler(function: Callable) -> bool:
    # Core hides dpm_adaptive's parameters behind a function that passes all of them on.
    return "noise_sampler" in inspect.signature(function).parameters or _name(function) == "dpm_adaptive_function"


def _asks_overlapping_intervals(function: Callable) -> bool:
    # The DPM++ SDE family draws from a Brownian path in core too; the others draw afresh for each interval.
    return _name(function).startswith("sample_dpmpp") and "sde" in _name(function)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "")  # a partial has none
