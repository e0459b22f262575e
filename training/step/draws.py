"""What is random in a step besides the clips: from a seed and the step's number alone."""

from __future__ import annotations

import hashlib

import torch

from ...temporal.clip.noise import mix_frames
from ..config.phases import NoiseStage


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Everything random in a step comes from here, so a resumed run draws what an uninterrupted one would."""
    digest = hashlib.sha256(f"{seed}/{step}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def kept_frames(frames: int, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Which of `frames` frames a step uses, rising: each is left out with chance `dropout`, two at least are kept."""
    if not dropout:
        return torch.arange(frames)
    chance = torch.rand(frames, generator=generator)
    kept = max(2, int((chance >= dropout).sum()))
    return chance.topk(kept).indices.sort().values


def draw_noise(shape: torch.Size, generator: torch.Generator, stage: NoiseStage) -> torch.Tensor:
    """Noise `[B, F, 4, h, w]`, correlated over frames in the stage's share of clips."""
    noise = torch.randn(shape, generator=generator)
    if stage.correlation:
        chance = torch.rand(len(noise), generator=generator)
        for i in range(len(noise)):
            base = torch.randn(shape[2:], generator=generator)
            if chance[i] < stage.probability:
                noise[i] = mix_frames(noise[i], base, stage.mode, stage.correlation)
    return noise
