"""Sampling the tiny SDXL in a few steps, and the contract's nodes as functions from MODEL to MODEL."""

from __future__ import annotations

from functools import cache

import comfy.sample
import comfy.samplers
import torch

import tiny
from sdxl_anime_video.nodes.anchor import KeyframeAnchor
from sdxl_anime_video.nodes.noise import CorrelatedNoise
from sdxl_anime_video.nodes.smoothing import FrameSmoothing
from sdxl_anime_video.temporal.adapter import TemporalAdapter
from sdxl_anime_video.temporal.hosts.comfy.adapter import apply_adapter, as_patcher, model_blocks

FRAMES = 5
SIZE = 8  # latent height and width
POSITIVE = tiny.conditioning(tiny.ALL_LEVELS)
NEGATIVE = tiny.conditioning(tiny.ALL_LEVELS, seed=1)


@cache
def _built():
    return tiny.comfy_model(tiny.ALL_LEVELS)


def model():
    """A clone with nothing recorded on it; the weights are built once."""
    return _built().clone()


@cache
def _built_adapter():
    sites = {block.path: (block.dim, block.heads) for block in model_blocks(_built())}
    adapter = TemporalAdapter.create(sites, max_frames=8)
    tiny.randomise(adapter, seed=7)
    return as_patcher(adapter)


def adapted(model, strength=1.0):
    """The model with a random temporal adapter, under which frames see each other."""
    return apply_adapter(model, _built_adapter(), strength)


def empty(frames: int = FRAMES) -> torch.Tensor:
    return torch.zeros(frames, 4, SIZE, SIZE)


def given(frames: int, seed: int = 0) -> dict:
    """A LATENT to pin."""
    return {"samples": tiny.latent(frames, SIZE, SIZE, seed=seed)}


def correlated(model, mode="shared", correlation=0.8, **freenoise):
    return CorrelatedNoise.execute(model, mode, correlation, **freenoise).result[0]


def smoothed(model, amount=0.3, start=0.0, end=1.0):
    return FrameSmoothing.execute(model, amount, start, end).result[0]


def anchored(model, every=2, strength=1.0, band="low", start=0.0, end=1.0, latent=None, positions=""):
    return KeyframeAnchor.execute(model, every, strength, band, start, end, latent, positions).result[0]


def ksample(
    model, sampler="euler", *, seed=5, frames=FRAMES, latent=None, steps=4, cfg=2.0, noise=None, mask=None, **options
) -> torch.Tensor:
    """What KSampler computes, `[F, 4, SIZE, SIZE]`."""
    latent = empty(frames) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "karras", POSITIVE, NEGATIVE, latent, noise_mask=mask, seed=seed, **options
    )


def sigmas_of(model, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)


def correlations(clip: torch.Tensor) -> torch.Tensor:
    """Correlation of frames `[F, F]`."""
    return torch.corrcoef(clip.flatten(1))
