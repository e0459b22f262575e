"""Sinusoidal positions of frames (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

from __future__ import annotations

import torch


def sinusoids(frames: int, rates: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """Return sines and cosines `[frames, 2 r]` of the frame number times each of the rates `[r]`.

    interleaved: sine and cosine in turn, else all sines before all cosines.
    """
    angle = torch.arange(frames)[:, None] * rates
    return torch.stack([angle.sin(), angle.cos()], dim=2 if interleaved else 1).flatten(1)
