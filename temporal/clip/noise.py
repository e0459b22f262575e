"""Noise that neighbouring frames share: how much, in which way, and from which seed.

Notation: e_i is the independent unit-normal noise of frame i, b one more unit-normal frame, r the correlation asked
for, n_i the noise that frame i gets. Covariances below are per latent value; values at different places of the picture
stay independent.

Everything random here is drawn from a generator of its own per frame, seeded by (seed, purpose, frame). So the seed
of the sampler rules, b is independent of every e_i, and the noise of a frame depends on its place in the clip but
neither on how long the clip is nor on the piece of it that is being sampled. A fixed combination of the frames at hand
(their mean, say) would need no further seed, but it would change with every frame added to the clip.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch

MODES = ("shared", "additive", "progressive", "freenoise")

BASE = -1
"""Stands for b where a frame number is expected."""


def generator_for(seed: int, purpose: str, frame: int) -> torch.Generator:
    """CPU generator of one frame's noise for one purpose; results do not depend on the device that samples."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{frame}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def seed_from(noise: torch.Tensor) -> int:
    """A seed for noise that came without one: taken from the bits of its first frame."""
    return zlib.crc32(noise[0].detach().cpu().float().contiguous().numpy().tobytes())


def correlate(
    noise: torch.Tensor, mode: str, correlation: float, *, seed: int, window: int = 16, overlap: int = 4
) -> torch.Tensor:
    """Correlated initial noise from the sampler's own.

    noise: `[F, C, H, W]`, unit normal, frame i seeded by the sampler. seed: the sampler's. See `mix_frames` for the
    modes and their covariance. Correlation 0 and a single frame return `noise` itself, and so does all-zero noise (of
    a sampler told to add none). Raises ValueError for an unknown mode, a correlation outside 0 to 1, or noise that is
    not 4-d.
    """
    if noise.ndim != 4:
        raise ValueError(f"noise must be [F, C, H, W], not {list(noise.shape)}")
    check_settings(mode, correlation, window, overlap)
    if correlation == 0 or len(noise) == 1 or torch.count_nonzero(noise) == 0:
        return noise
    base = torch.randn(noise.shape[1:], generator=generator_for(seed, "initial", BASE)).to(noise)
    return mix_frames(noise, base, mode, correlation, seed=seed, window=window, overlap=overlap)


def check_settings(mode: str, correlation: float, window: int, overlap: int) -> None:
    """Raise ValueError for settings that `mix_frames` cannot carry out."""
    if mode not in MODES:
        raise ValueError(f"unknown noise mode {mode!r}; choose one of {', '.join(MODES)}")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; it must lie between 0 (independent frames) and 1")
    if mode == "freenoise" and not 0 <= overlap < window:
        raise ValueError(f"freenoise overlap is {overlap} and window {window}; the overlap must be below the window")


def mix_frames(
    noise: torch.Tensor, base: torch.Tensor, mode: str, r: float, *, seed: int = 0, window: int = 16, overlap: int = 4
) -> torch.Tensor:
    """Frames 0..F-1 of correlated noise out of independent noise e `[F, C, H, W]` and base b `[C, H, W]`.

    shared       n_i = sqrt(r) b + sqrt(1-r) e_i. Variance 1, covariance r between any two frames (the mixed noise of
                 Ge et al. 2023, "Preserve Your Own Correlation").
    additive     n_i = b + j e_i, j = sqrt((1-r)/r). Covariance 1, variance 1 + j^2 = 1/r, so correlation r: shared
                 noise that is not brought back to unit variance. Meant for r near 1, where j = 0.03 is r = 0.9991
                 (variance 1.0009) and j = 0.05 is r = 0.9975. Lower r gives noise that is too strong.
    progressive  n_0 = e_0, n_i = r n_{i-1} + sqrt(1-r^2) e_i. Variance 1, covariance r^|i-k| (the same paper's
                 autoregressive noise).
    freenoise    n_i = e_i in the first window; after it n_i = r n_s + sqrt(1-r^2) e_i, where s is the frame that
                 `freenoise_sources` lets i repeat. Variance 1, covariance r with that frame, r^k after k repeats, 0
                 otherwise; neighbours are nearly independent. r = 1 is the shuffled reuse of Qiu et al. 2023,
                 "FreeNoise". A clip no longer than the window keeps its noise.
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
    """The frame whose noise each frame repeats, -1 in the first window.

    Past the window, each run of `window - overlap` frames repeats, in shuffled order, as many frames from the point
    `window` frames earlier. The order of a run depends on the seed and on where the run starts.
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
    """Fresh noise at every call, for samplers that ask once for each interval."""
    generator = generator_for(seed, "step", frame)
    return lambda sigma, sigma_next: torch.randn(*shape, generator=generator)


def brownian_stream(seed: int, frame: int, shape: Sequence[int]) -> Draw:
    """Normalised increments of one Brownian path W over sigma, for samplers whose intervals overlap.

    W(s) - W(t) over sqrt|s - t|. A midpoint method (DPM++ SDE) asks for [s, mid] and [s, t] in one step, and the two
    must agree. Visited points above the start of an interval are forgotten, so memory stays at a few frames.
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
    """Correlated noise `[F, C, H, W]` for every step of a stochastic sampler.

    index: the frames' places in the clip. stream(frame) opens the noise of one frame, or of the base for BASE.
    freenoise: `seed`, `window` and `overlap` of `mix_frames`. The covariance over frames is that of the mode and,
    being a fixed linear mixture, it leaves the law over steps alone. Mode "additive" mixes as "shared" here: the
    sampler's step assumes noise of unit variance.
    """
    rows = list(index)
    # A frame's noise in the recursive modes is made of earlier frames', also of those that are not being sampled.
    sources = rows if mode in ("shared", "additive") else list(range(max(rows) + 1))
    keep = [sources.index(row) for row in rows]
    base, streams = stream(BASE), [stream(row) for row in sources]
    mode = "shared" if mode == "additive" else mode

    def draw(sigma: float, sigma_next: float) -> torch.Tensor:
        own = torch.stack([one(sigma, sigma_next) for one in streams])
        return mix_frames(own, base(sigma, sigma_next), mode, r, **freenoise)[keep]

    return draw
