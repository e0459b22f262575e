"""The one place where the frame contract is carried out: an OUTER_SAMPLE wrapper around ComfyUI's sampling.

Our nodes record settings on a MODEL (`record`). When a sampler runs that MODEL, `carry_out` applies them to the whole
clip in a fixed order: initial noise, pinned frames, then the segments one after another (`chain`), context windows
inside a segment. A segment's steps run with `ClipRun` at hand, which publishes what every frame of the batch is and
edits the denoised prediction. All state of a run lives in objects reachable from the run's own copy of the model
options only, so an interrupted run leaves nothing behind.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...frames import FRAMES_KEY, FrameInfo, pull_to_reference, require_equal_frames, smooth_frames
from ...noise import brownian_stream, correlate, normal_stream, seed_from, step_noise
from ...segments import Segment
from .conds import tell_advanced
from .contract import CONTRACT_KEY, FrameContract, NoiseSettings, Pull, contract_of
from .pinning import PinnedFrames, clip_mask
from .windows import WindowHandler


def record(model, change: Callable[[FrameContract], FrameContract]):
    """A clone of the MODEL (a ModelPatcher) with `change` made to its frame contract."""
    model = model.clone()
    model.model_options[CONTRACT_KEY] = change(contract_of(model.model_options))
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, CONTRACT_KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CONTRACT_KEY, carry_out)
    return model


def carry_out(
    executor,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler,
    sigmas: torch.Tensor,
    denoise_mask: torch.Tensor | None = None,
    callback: Callable | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """OUTER_SAMPLE wrapper: samples the clip `[F, C, h, w]` under the contract recorded on the guider's MODEL."""
    from .chain import sample_chain

    guider = executor.class_obj
    contract = contract_of(guider.model_options)
    if noise.ndim != 4:
        raise ValueError(
            f"SDXL Anime Video nodes work on latents [frames, channels, height, width], but this MODEL samples "
            f"{list(noise.shape)}; use an SDXL model, and SAV_EmptyVideoLatent for the clip"
        )
    if contract.windows is not None and "context_handler" in guider.model_options:
        raise ValueError("SAV_ContextWindows: this MODEL also has ComfyUI's own context windows; remove one of the two")
    _require_a_row_a_frame(guider.conds, len(noise))
    seed = seed_from(noise) if seed is None else seed
    if contract.noise is not None and len(noise) > 1:
        noise = correlate(noise, **vars(contract.noise), seed=seed)
    own_mask = clip_mask(denoise_mask, noise.shape, guider.model_patcher.load_device)
    schedule = Schedule(guider.model_patcher.get_model_object("model_sampling"), sigmas)
    pinned = PinnedFrames(contract.pins, noise.shape, schedule.in_range)
    clip = Clip(contract, noise, pinned.put_latents(latent_image), own_mask, denoise_mask, pinned, seed)
    sampling = Sampling(executor, sampler, sigmas, callback, disable_pbar, kwargs)
    if contract.chain is not None and len(noise) > contract.chain.segment_frames:
        return sample_chain(clip, contract.chain, sampling)
    return sample_segment(clip, Segment(0, len(noise)), sampling)


def _require_a_row_a_frame(conds: dict[str, list[dict[str, Any]]], frames: int) -> None:
    """Raise ValueError for prompts of another number of frames, which core would begin anew or cut without a word."""
    for name, some in conds.items():
        for cond in some:
            rows = len(cond["cross_attn"]) if cond.get("cross_attn") is not None else 1
            if rows > 1:
                require_equal_frames("SDXL Anime Video", f"the {name} conditioning", rows, "the latent", frames)


@dataclass(frozen=True, eq=False)
class Clip:
    """A whole clip to be sampled: what the sampler was given, with noise and pinned frames of the contract in place.

    noise, latent: `[F, C, h, w]`; mask: `[F, 1, h, w]`, what the latent came with; given_mask: as core handed it over
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
    """How core asked for the clip to be sampled. executor: goes on with the sampling, and may be called again."""

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
    """Sample one segment, or the whole clip; `[stop - start, C, h, w]`.

    finished: latents `[K, C, h, w]` of the segment's first frames, which are held.
    first_frame: the clip's first latent `[C, h, w]` once that is finished, for a segment that does not hold it.
    """
    guider = sampling.executor.class_obj
    contract, rows = clip.contract, segment.rows
    noise, latent, mask, given_mask = clip.noise[rows], clip.latent[rows], clip.mask[rows], clip.given_mask
    whole = len(noise) == len(clip.noise)
    sampler = sampling.sampler
    schedule = Schedule(guider.model_patcher.get_model_object("model_sampling"), sampling.sigmas)
    if len(clip.noise) > 1 and (contract.noise is not None or not whole):
        # Segments must not repeat each other's step noise, so here it always follows the frame's place in the clip.
        settings = contract.noise or NoiseSettings("shared", 0.0)
        index, device = range(segment.start, segment.stop), guider.model_patcher.load_device
        sampler = with_step_noise(sampler, settings, index, noise.shape[1:], device, clip.seed)

    pinned = clip.pinned.take(rows, latent[:0] if finished is None else finished)
    base_options = guider.model_options
    options = guider.model_options = comfy.model_patcher.create_model_options_clone(base_options)
    try:
        if not whole:
            given_mask = None if given_mask is None else mask
            tell_advanced(options["transformer_options"], range(segment.start, segment.stop), len(clip.noise))
            sampling.rest.update({"latent_shapes": [noise.shape]} if "latent_shapes" in sampling.rest else {})
        if pinned:
            latent = pinned.put_latents(latent)
            noise = pinned.put_noise(noise, clip.seed, segment.start)
            given_mask = pinned.mask(mask, float(sampling.sigmas[0]))
            previous = options.get("denoise_mask_function")
            options["denoise_mask_function"] = pinned.mask_function(mask, previous)
        if contract.windows is not None and len(noise) > contract.windows.length:
            options["context_handler"] = WindowHandler(contract.windows)

        frames = FrameInfo(
            torch.arange(segment.start, segment.stop), len(clip.noise), mask.amax(dim=(1, 2, 3)).cpu() == 0
        )
        run = ClipRun(contract, schedule, frames, pinned, first_frame)
        options["transformer_options"][FRAMES_KEY] = run.info_at(float(sampling.sigmas[0]))
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, CONTRACT_KEY, run.predict, options, True)

        finishes = float(sampling.sigmas[-1]) == 0  # asked now, for core's uni_pc overwrites the last sigma
        samples = sampling.executor(
            noise,
            latent,
            sampler,
            sampling.sigmas,
            given_mask,
            sampling.callback,
            sampling.disable_pbar,
            clip.seed,
            **sampling.rest,
        )
    finally:
        guider.model_options = base_options
    return pinned.put_exact(samples) if finishes else samples


class Ranged(Protocol):
    """A setting that is in force over a part of the schedule."""

    @property
    def start_percent(self) -> float: ...

    @property
    def end_percent(self) -> float: ...


class Schedule:
    """Noise levels of a run: which step a level belongs to, and which settings are in force there."""

    def __init__(self, model_sampling, sigmas: torch.Tensor):
        self._percent_to_sigma = cache(model_sampling.percent_to_sigma)
        self._sigmas = sigmas.tolist()

    def step(self, sigma: float) -> int:
        """Index of the step that evaluates the model at `sigma`; levels inside a step belong to its beginning."""
        started = sum(level >= sigma * (1 - 1e-5) for level in self._sigmas[:-1])
        return max(started - 1, 0)

    def in_range(self, setting: Ranged, sigma: float) -> bool:
        """True from start_percent to end_percent of the model's own schedule, as core's conditioning ranges are."""
        return self._percent_to_sigma(setting.end_percent) <= sigma <= self._percent_to_sigma(setting.start_percent)


class ClipRun:
    """One run of a sampler over a segment: publishes the frames and edits the denoised prediction at every step."""

    def __init__(
        self,
        contract: FrameContract,
        schedule: Schedule,
        frames: FrameInfo,
        pinned: PinnedFrames,
        first_frame: torch.Tensor | None = None,
    ):
        """frames: with those known that are held at every step; first_frame: see `sample_segment`."""
        self._contract, self._schedule, self._frames, self._pinned = contract, schedule, frames, pinned
        self._pulls = [(pull, _pull_rows(pull, frames)) for pull in contract.pulls]
        self._first_frame = first_frame

    def info_at(self, sigma: float) -> FrameInfo:
        """What is published while the model runs at this noise level."""
        known = self._frames.known | self._pinned.held(sigma, len(self._frames.known))
        return FrameInfo(self._frames.index, self._frames.length, known, self._schedule.step(sigma))

    def predict(self, executor, x: torch.Tensor, timestep: torch.Tensor, model_options=None, seed=None, **kwargs: Any):
        """PREDICT_NOISE wrapper: the denoised frames `[F, C, h, w]`, after every other extension's CFG functions."""
        sigma = float(timestep.max())
        options = dict(model_options or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), FRAMES_KEY: self.info_at(sigma)}
        denoised = executor(x, timestep, options, seed, **kwargs)
        return self._edit(denoised, sigma, executor.class_obj)

    def _edit(self, denoised: torch.Tensor, sigma: float, guider) -> torch.Tensor:
        for smoothing in self._contract.smoothings:
            if self._schedule.in_range(smoothing, sigma):
                denoised = smooth_frames(denoised, smoothing.amount)
        for pull, rows in self._pulls:
            if self._schedule.in_range(pull, sigma):
                first = denoised[0]
                if self._first_frame is not None:  # finished, and so in the scale of latents outside of the model
                    first = guider.inner_model.process_latent_in(self._first_frame.to(denoised))
                denoised = pull_to_reference(denoised, rows, first, pull.strength, pull.band)
        return denoised


def _pull_rows(pull: Pull, frames: FrameInfo) -> torch.Tensor:
    """Rows of the batch that a pull moves: its places but the first frame, which they are moved toward."""
    places = pull.places.rows(frames.length, "SAV_KeyframeAnchor")
    return torch.isin(frames.index, torch.tensor([place for place in places if place > 0])).nonzero()[:, 0]


def with_step_noise(
    sampler, settings: NoiseSettings, index: Iterable[int], shape: torch.Size, device: torch.device, seed: int
):
    """The sampler with correlated noise at its steps; samplers that take no `noise_sampler` are returned as they are.

    index: the frames' places in the clip; shape: one frame's, `[C, h, w]`; device: where the sampler computes.
    The SAMPLER itself may be shared with other graphs and stays as it is.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None or not _takes_noise_sampler(function):
        return sampler
    stream = brownian_stream if _asks_overlapping_intervals(function) else normal_stream
    draw = step_noise(
        index,
        settings.mode,
        settings.correlation,
        lambda frame: stream(seed, frame, shape),
        seed=seed,
        window=settings.window,
        overlap=settings.overlap,
    )
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
