"""The one place where the frame contract is carried out: an OUTER_SAMPLE wrapper around ComfyUI's sampling.

Our nodes record settings on a MODEL (`record`). When a sampler runs that MODEL, `carry_out` applies them to the whole
clip in a fixed order: initial noise, pinned frames, then the segments one after another (`chain`), context windows
inside a segment. In the steps of a segment, `ClipRun` publishes the frames of the batch and edits the denoised
prediction. All state of a run hangs on the run's own copy of the model options, so an interrupted run leaves nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ....clip.contract import CONTRACT_KEY, FrameContract, contract_of
from ....clip.frames import require_equal_frames
from ....clip.noise import correlate, seed_from
from ....clip.segments import Segment
from ..errors import at_node
from .chain import sample_chain
from .clip_run import Schedule
from .pinning import PinnedFrames, clip_mask
from .segment import Clip, Sampling, sample_segment


def record(model, change: Callable[[FrameContract], FrameContract]):
    """Return a clone of the MODEL (a ModelPatcher) with `change` made to its frame contract."""
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
    guider = executor.class_obj
    contract = contract_of(guider.model_options)
    _require_a_clip(guider, noise)
    with at_node("Context Windows"):
        if contract.windows is not None and "context_handler" in guider.model_options:
            raise ValueError("this MODEL also has ComfyUI's own context windows; remove one of the two")
    seed = seed_from(noise) if seed is None else seed
    if contract.noise is not None and len(noise) > 1:
        noise = correlate(noise, **vars(contract.noise), seed=seed)
    own_mask = clip_mask(denoise_mask, noise.shape, guider.model_patcher.load_device)
    schedule = Schedule(guider.model_patcher.get_model_object("model_sampling").percent_to_sigma, sigmas)
    with at_node("Keyframe Anchor"):
        pinned = PinnedFrames(contract.pins, noise.shape, schedule.in_range)
    clip = Clip(contract, noise, pinned.put_latents(latent_image), own_mask, denoise_mask, pinned, seed)
    sampling = Sampling(executor, sampler, sigmas, callback, disable_pbar, kwargs)
    if contract.chain is not None and len(noise) > contract.chain.segment_frames:
        return sample_chain(clip, contract.chain, sampling)
    return sample_segment(clip, Segment(0, len(noise)), sampling)


def _require_a_clip(guider, noise: torch.Tensor) -> None:
    """Raise ValueError for latents that are no clip, and for prompts of another number of frames.

    Core would repeat or cut such prompts without a word.
    """
    channels = guider.model_patcher.get_model_object("latent_format").latent_channels
    if noise.ndim != 4 or noise.shape[1] != channels or 0 in noise.shape:
        raise ValueError(
            f"SDXL Anime Video samples clips [frames, {channels}, height, width] with this MODEL, not a latent "
            f"{list(noise.shape)}; use an SDXL model, and Empty Video Latent for the clip"
        )
    for name, conds in guider.conds.items():
        for cond in conds:
            rows = len(cond["cross_attn"]) if cond.get("cross_attn") is not None else 1
            if rows > 1:
                with at_node("Prompt Schedule and Empty Video Latent"):  # where both numbers of frames are set
                    require_equal_frames(f"the {name} conditioning", rows, "the latent", len(noise))
