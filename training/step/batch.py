"""The batch of one forward pass of training: clips, kept frames and noise, and how they are drawn."""

import hashlib
from dataclasses import dataclass

import torch

from ...temporal.clip.noise import mix_frames
from ...temporal.hosts.diffusers.base import Text
from ..clips.source import ClipSource
from ..config.phases import NoisePhase


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of a training clip.

    number:  of the clip in its source
    start:   its first frame
    latents: `[F, 4, h, w]` fp32
    """

    number: int
    start: int
    latents: torch.Tensor


@dataclass(frozen=True)
class HintedFrames:
    """Frames `rows` `[K]` of each clip of a batch, and their hints for the ControlNet: `[B, K, 3, H, W]`, 0..1."""

    rows: torch.Tensor
    pictures: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Clips of one size and number of frames, with all that the loss needs to know of them.

    numbers:   of the clips in their source
    latents:   `[B, F, 4, h, w]`
    noise:     `[B, F, 4, h, w]`
    timestep:  `[B]`
    text:      tokens `[B, T, C]` and pooled `[B, P]`
    time_ids:  `[B, 6]`, SDXL's size conditioning
    positions: `[F]` of the frames among the positions of the temporal layers; None for the first F
    hinted:    None where no frame has a hint
    """

    numbers: list[int]
    latents: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    text: Text
    time_ids: torch.Tensor
    positions: torch.Tensor | None = None
    hinted: HintedFrames | None = None


def draw_clips(
    source: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int], generator: torch.Generator
) -> list[Clip]:
    """Return `count` random clips of one bucket, cut at random places to one length of the choices.

    No clip may be shorter than every choice; the length is one that all the drawn clips have.
    """

    def integer(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    sizes = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float32)
    bucket = buckets[int(torch.multinomial(sizes, 1, generator=generator))]
    if len(bucket) >= count:
        numbers = [bucket[i] for i in torch.randperm(len(bucket), generator=generator)[:count].tolist()]
    else:
        numbers = [bucket[integer(len(bucket))] for _ in range(count)]
    room = min(source.lengths[i] for i in numbers)
    choices = [frames for frames in frame_choices if frames <= room]
    frames = choices[integer(len(choices))]
    clips = []
    for number in numbers:
        start = integer(source.lengths[number] - frames + 1)
        clips.append(Clip(number, start, source.frames(number, start, frames, generator)))
    return clips


def longest_draw(source: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int]) -> int:
    """Return the largest of the choices that `draw_clips` can cut a batch to."""
    lengths = [sorted((source.lengths[i] for i in bucket), reverse=True) for bucket in buckets]
    room = max(some[count - 1 if count <= len(some) else 0] for some in lengths)  # only small buckets repeat clips
    return max(frames for frames in frame_choices if frames <= room)


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
