"""Shapes of clips."""

import torch
from einops import rearrange


def count_clips(x: torch.Tensor, frames: int) -> int:
    """Return b of x `[(b f) ...]`. Raises ValueError if f = frames does not divide the batch."""
    clips, rest = divmod(x.shape[0], frames)
    if rest:
        raise ValueError(f"a batch of {x.shape[0]} does not hold clips of {frames} frames")
    return clips


def clips_as_images(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Return x `[(b f) c h w]` as `[b c (f h) w]`, so that a GroupNorm sees a clip as one image.

    Raises ValueError if f = frames does not divide the batch.
    """
    return rearrange(x, "(b f) c h w -> b c (f h) w", b=count_clips(x, frames))


def images_as_clips(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Return x `[b c (f h) w]` as `[(b f) c h w]`, the inverse of `clips_as_images`."""
    return rearrange(x, "b c (f h) w -> (b f) c h w", f=frames)
