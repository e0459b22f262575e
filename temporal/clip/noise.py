"""Correlated noise: noise that frames of a clip share.

Notation: e_i is the independent unit-normal noise of frame i, b one more unit-normal frame, r the requested
correlation, n_i the resulting noise of frame i. Covariances below are per latent value; values at different places of
the picture stay independent.

Every frame draws from its own generator, seeded by (seed, purpose, frame). So the sampler's seed decides the noise, b
is independent of every e_i, and a frame's noise depends on its place in the clip, but neither on the clip's length nor
on the segment or window being sampled. A fixed combination of the frames in the batch (such as their mean) would need
no extra seed, but it would change with every frame added to the clip.
"""

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch

MODES = ("shared", "additive", "progressive", "freenoise")

BASE = -1
"""The frame number of b."""


def generator_for(seed: int, purpose: str, frame: int) -> torch.Generator:
    """Return the CPU generator of one frame's noise for one purpose; so noise does not depend on the device."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{frame}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def seed_from(noise: torch.Tensor) -> int:
    """Return a seed for noise without a known seed, from the bits of its first frame."""
    return zlib.crc32(noise[0].detach().cpu().float().contiguous().numpy().tobytes())


def correlate(
    noise: torch.Tensor, mode: str, correlation: float, *, seed: int, window: int = 16, overlap: int = 4
) -> torch.Tensor:
    """Return correlated initial noise, made from the sampler's own.

    noise: `[F, C, H, W]`, unit normal. seed: the sampler's. See `mix_frames` for the modes and their covariance.
    Correlation 0, a single frame and all-zero noise (of a sampler that adds none) return `noise` itself.

    Raises ValueError as `check_settings` does and for noise that is not 4-d.
    """
    if noise.ndim != 4:
        raise ValueError(f"noise must be [F, C, H, W], not {list(noise.shape)}")
    check_settings(mode, correlation, window, overlap)
    if correlation == 0 or len(noise) == 1 or torch.count_nonzero(noise) == 0:
        return noise
    base = torch.randn(noise.shape[1:], generator=generator_for(seed, "initial", BASE)).to(noise)
    return mix_frames(noise, base, mode, correlation, seed=seed, window=window, overlap=overlap)


def check_settings(mode: str, correlation: float, window: int, overlap: int) -> None:
    """Raise ValueError for settings that `mix_frames` does not support."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; it must lie between 0 (independent frames) and 1")
    if mode == "freenoise" and not 0 <= overlap < window:
        raise ValueError(f"freenoise overlap is {overlap} and window {window}; the overlap must be below the window")


def mix_frames(
    noise: torch.Tensor, base: torch.Tensor, mode: str, r: float, *, seed: int = 0, window: int = 16, overlap: int = 4
) -> torch.Tensor:
    """Return frames 0..F-1 of correlated noise, made from independent noise e `[F, C, H, W]` and base b `[C, H, W]`.

    shared       n_i = sqrt(r) b + sqrt(1-r) e_i. Variance 1, covariance r between any two frames (the mixed noise of
                 Ge et al. 2023, "Preserve Your Own Correlation").
    additive     n_i = b + j e_i, j = sqrt((1-r)/r). Covariance 1, variance 1 + j^2 = 1/r, so correlation r: shared
                 noise without rescaling to unit variance. For r near 1, where j = 0.03 is r = 0.9991 (variance 1.0009)
                 and j = 0.05 is r = 0.9975. Lower r gives noise that is too strong.
    progressive  n_0 = e_0, n_i = r n_{i-1} + sqrt(1-r^2) e_i. Variance 1, covariance r^|i-k| (the same paper's
                 autoregressive noise).
    freenoise    n_i = e_i in the first window; after it n_i = r n_s + sqrt(1-r^2) e_i, where s is frame i's source
                 from `freenoise_sources`. Variance 1, covariance r with the source, r^k after k repeats, 0 otherwise;
                 neighbours are nearly independent. r = 1 is the shuffled reuse of Qiu et al. 2023, "FreeNoise". A clip
                 no longer than the window keeps its noise.
    """
    if mode == "shared":
        return math.sqrt(r) * base + math.sqrt(1 - r) * noise
    if mode == "additive":
        return base + math.sqrt((1 - r) / r) * noise
    if mode == "progressive":
        sources = range(-1, len(noise) - 1)
    else:
        sources = freenoise_sources(len(noise), window, overlap, seed)
    frames: list[torch.Tensor] = []
    for own, source in zip(noise, sources, strict=True):
        frames.append(own if source < 0 else r * frames[source] + math.sqrt(1 - r * r) * own)
    return torch.stack(frames)


def freenoise_sources(frames: int, window: int, overlap: int, seed: int) -> list[int]:
    """Return the source of each frame, whose noise it repeats; -1 in the first window.

    After the window, each run of `window - overlap` frames repeats, in shuffled order, the run that starts `window`
    frames earlier. The order depends on the seed and on the frame at which the run starts.
    """
    sources = [-1] * min(frames, window)
    stride = window - overlap
    for start in range(window, frames, stride):
        order = torch.randperm(stride, generator=generator_for(seed, "freenoise", start))
        sources.extend(start - window + i for i in order[: frames - start].tolist())
    return sources


Draw = Callable[[float, float], torch.Tensor]
"""Unit-normal noise `[C, H, W]` for the step from one sigma to the next."""


def normal_stream(seed: int, frame: int, shape: Sequence[int]) -> Draw:
    """Return a function that draws fresh noise at every call, for samplers that draw once for each interval."""
    generator = generator_for(seed, "step", frame)
    return lambda sigma, sigma_next: torch.randn(*shape, generator=generator)


def brownian_stream(seed: int, frame: int, shape: Sequence[int]) -> Draw:
    """Return a function that draws increments of one Brownian path W over sigma, for samplers whose intervals overlap.

    An increment is (W(s) - W(t)) / sqrt|s - t|. A midpoint method (DPM++ SDE) draws for [s, mid] and [s, t] in one
    step, and the two must agree. Visited points above the start of an interval are dropped, so memory stays at a few
    frames.
    """
    generator = generator_for(seed, "step", frame)
    path: dict[float, torch.Tensor] = {}

    def visit(sigma: float) -> torch.Tensor:
        if sigma not in path:
            below = max((s for s in path if s < sigma), default=None)
            above = min((s for s in path if s > sigma), default=None)
            normal = torch.randn(*shape, generator=generator)
            if below is not None and above is not None:  # Brownian bridge
                t = (sigma - below) / (above - below)
                spread = math.sqrt((sigma - below) * (above - sigma) / (above - below))
                path[sigma] = torch.lerp(path[below], path[above], t) + spread * normal
            else:
                known = below if below is not None else above
                path[sigma] = (
                    torch.zeros(*shape) if known is None else path[known] + math.sqrt(abs(sigma - known)) * normal
                )
        return path[sigma]

    def draw(sigma: float, sigma_next: float) -> torch.Tensor:
        change = visit(sigma) - visit(sigma_next)
        for passed in [s for s in path if s > max(sigma, sigma_next)]:
            del path[passed]
        return change / math.sqrt(abs(sigma - sigma_next))

    return draw


def step_noise(
    index: Iterable[int], mode: str, r: float, stream: Callable[[int], Draw], **freenoise: int
) -> Callable[[float, float], torch.Tensor]:
    """Return a function that draws correlated noise `[F, C, H, W]` for every step of a stochastic sampler.

    index: the frames' places in the clip. stream: opens the noise of one frame, or of the base for BASE. freenoise:
    `seed`, `window` and `overlap` of `mix_frames`. The covariance over frames is the mode's; a fixed linear mixture
    does not change the distribution over steps. Mode "additive" mixes as "shared" here, because the sampler's step
    assumes noise of unit variance.
    """
    rows = list(index)
    # Recursive modes build a frame's noise on that of earlier frames, including those outside the batch.
    sources = rows if mode in ("shared", "additive") else list(range(max(rows) + 1))
    keep = [sources.index(row) for row in rows]
    base, streams = stream(BASE), [stream(row) for row in sources]
    mode = "shared" if mode == "additive" else mode

    def draw(sigma: float, sigma_next: float) -> torch.Tensor:
        own = torch.stack([one(sigma, sigma_next) for one in streams])
        return mix_frames(own, base(sigma, sigma_next), mode, r, **freenoise)[keep]

    return draw
