"""One segment of a clip, or the whole clip, sampled under the frame contract."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ....clip.contract import CONTRACT_KEY, FrameContract, NoiseSettings
from ....clip.frames import FrameInfo
from ....clip.segments import Segment
from ..conditioning.conds import tell_advanced
from ..published import FRAMES_KEY
from .clip_run import ClipRun, Schedule
from .pinning import PinnedFrames
from .sampler_noise import with_step_noise
from .windows import WindowHandler


@dataclass(frozen=True, eq=False)
class Clip:
    """The whole clip that is to be sampled: the sampler's inputs with noise and pinned frames of the contract in place.

    noise, latent: `[F, C, h, w]`; mask: `[F, 1, h, w]`, the latent's own; given_mask: the same as core passed it
    """

    contract: FrameContract
    noise: torch.Tensor
    latent: torch.Tensor
    mask: torch.Tensor
    given_mask: torch.Tensor | None
    pinned: PinnedFrames
    seed: int


@dataclass(frozen=True, eq=False)
class Sampling:
    """Core's arguments for sampling the clip. executor: continues core's sampling; may be called more than once."""

    executor: Any
    sampler: Any
    sigmas: torch.Tensor
    callback: Callable | None
    disable_pbar: bool
    rest: dict[str, Any]


def sample_segment(
    clip: Clip,
    segment: Segment,
    sampling: Sampling,
    finished: torch.Tensor | None = None,
    first_frame: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return one segment, or the whole clip, sampled: `[stop - start, C, h, w]`.

    finished: latents `[K, C, h, w]` of the segment's first frames, which are held.
    first_frame: the clip's first latent `[C, h, w]`, finished, for a segment without it.
    """
    guider = sampling.executor.class_obj
    pinned = clip.pinned.take(segment.rows, clip.latent[:0] if finished is None else finished)
    first_sigma = float(sampling.sigmas[0])
    finishes = float(sampling.sigmas[-1]) == 0  # read first, because core's uni_pc overwrites the last sigma
    base_options = guider.model_options
    options = comfy.model_patcher.create_model_options_clone(base_options)
    schedule = Schedule(guider.model_patcher.get_model_object("model_sampling").percent_to_sigma, sampling.sigmas)
    known = clip.mask[segment.rows].amax(dim=(1, 2, 3)).cpu() == 0
    frames = FrameInfo(torch.tensor(segment.frames), len(clip.noise), known)
    run = ClipRun(clip.contract, schedule, frames, pinned, first_frame)
    _tell(options, clip, segment, run, first_sigma)
    noise, latent, given_mask = _inputs(clip, segment, pinned, first_sigma)
    rest = sampling.rest
    if "latent_shapes" in rest:
        rest = {**rest, "latent_shapes": [noise.shape]}
    sampler = _with_step_noise(sampling.sampler, clip, segment, guider.model_patcher.load_device)
    guider.model_options = options
    try:
        inputs = noise, latent, sampler, sampling.sigmas, given_mask
        samples = sampling.executor(*inputs, sampling.callback, sampling.disable_pbar, clip.seed, **rest)
    finally:
        guider.model_options = base_options
    return pinned.put_exact(samples) if finishes else samples


def _inputs(
    clip: Clip, segment: Segment, pinned: PinnedFrames, first_sigma: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return noise, latent and mask of a segment, with its held frames put into them."""
    noise, latent, mask = (whole[segment.rows] for whole in (clip.noise, clip.latent, clip.mask))
    if pinned:
        return (
            pinned.put_noise(noise, clip.seed, segment.start),
            pinned.put_latents(latent),
            pinned.mask(mask, first_sigma),
        )
    whole = len(noise) == len(clip.noise)
    return noise, latent, clip.given_mask if whole or clip.given_mask is None else mask


def _tell(options: dict[str, Any], clip: Clip, segment: Segment, run: ClipRun, first_sigma: float) -> None:
    """Put into the run's own model options all that the model, other packs and core's sampling need of a segment."""
    windows = clip.contract.windows
    if len(segment.frames) < len(clip.noise):
        tell_advanced(options["transformer_options"], segment.frames, len(clip.noise))
    if run.pinned:
        previous = options.get("denoise_mask_function")
        options["denoise_mask_function"] = run.pinned.mask_function(clip.mask[segment.rows], previous)
    if windows is not None and len(segment.frames) > windows.length:
        options["context_handler"] = WindowHandler(windows)
    options["transformer_options"][FRAMES_KEY] = run.info_at(first_sigma)
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, CONTRACT_KEY, run.predict, options, True)


def _with_step_noise(sampler: Any, clip: Clip, segment: Segment, device: torch.device) -> Any:
    """Return the sampler with the contract's step noise, or else with one that segments do not repeat."""
    settings, whole = clip.contract.noise, len(segment.frames) == len(clip.noise)
    if len(clip.noise) == 1 or (settings is None and whole):
        return sampler
    settings = settings or NoiseSettings("shared", 0.0)
    return with_step_noise(sampler, settings, segment.frames, clip.noise.shape[1:], device, clip.seed)
