"""The random draws of a step besides its clips, by the seed and the number of the step alone."""

from __future__ import annotations

import hashlib

import torch

from ...temporal.clip.noise import mix_frames
from ..config.phases import NoisePhase


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Return the generator of all draws in a part of a step, so that a resumed run draws as an uninterrupted one."""
    digest = hashlib.sha256(f"{seed}/{step}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def kept_frames(frames: int, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Return the frames of `frames` that a step uses, rising: each is dropped with chance `dropout`, two are kept."""
    if not dropout:
        return torch.arange(frames)
    chance = torch.rand(frames, generator=generator)
    kept = max(2, int((chance >= dropout).sum()))
    return chance.topk(kept).indices.sort().values


def draw_noise(shape: torch.Size, generator: torch.Generator, phase: NoisePhase) -> torch.Tensor:
    """Return noise `[B, F, 4, h, w]`, correlated over frames with the phase's probability for each clip."""
    noise = torch.randn(shape, generator=generator)
    if phase.correlation:
        chance = torch.rand(len(noise), generator=generator)
        for i in range(len(noise)):
            base = torch.randn(shape[2:], generator=generator)
            if chance[i] < phase.probability:
                noise[i] = mix_frames(noise[i], base, phase.mode, phase.correlation)
    return noise
