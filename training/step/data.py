"""The clips of a training phase: which are held out, and the batches that each step draws from the others."""

import torch

from ...temporal.hosts.diffusers.base import Base
from ..clips.source import ClipSource
from ..config.phases import NoisePhase
from ..config.train import TrainConfig
from .batch import Batch, Clip, draw_clips, draw_noise, kept_frames, step_generator
from .hints import Hints
from .loss import hide_latents, timesteps

_VALIDATION_STEP = -1  # takes the place of the step in seeds


class Data:
    """The clips of a training phase, by its config.

    held_out: clips of the validation loss
    buckets:  the other clips, grouped by picture size
    hints:    of the clips, where the run has a ControlNet

    Raises ValueError if no clip is left to train on.
    """

    def __init__(self, config: TrainConfig, clips: ClipSource, base: Base):
        self.config, self.clips, self.sigmas = config, clips, base.sigmas.double()
        self.hints = Hints(config, base, clips) if config.controlnet else None
        self.held_out = hold_out(clips.buckets(), config.validation_clips)
        self.buckets = [left for bucket in clips.buckets() if (left := [i for i in bucket if i not in self.held_out])]
        if not self.buckets:
            raise none_left(config.validation_clips, len(clips))

    def draw(self, step: int, part: int, noise_phase: NoisePhase) -> Batch:
        """Return one part of a step's batch, which depends on the seed, the step and the part alone."""
        config = self.config
        generator = step_generator(config.seed, step, part)
        clips = draw_clips(self.clips, self.buckets, config.clips_per_step, config.frames, generator)
        latents = torch.stack([clip.latents for clip in clips])
        count, frames = latents.shape[:2]
        numbers = [clip.number for clip in clips]
        captions = torch.tensor([self.clips.caption[i] for i in numbers])
        dropped = torch.rand(count, generator=generator) < config.caption_dropout
        # One number in each of `count` equal parts of [0, 1), in random order: less variance than free draws.
        uniform = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        timestep = timesteps(uniform, len(self.sigmas), config.high_noise_bias)
        offset = 0
        if config.random_positions:
            offset = int(torch.randint(config.max_frames - frames + 1, (1,), generator=generator))
        noise = draw_noise(latents.shape, generator, noise_phase)
        if config.pure_noise_share:
            pure = torch.rand(count, generator=generator) < config.pure_noise_share
            timestep[pure] = len(self.sigmas) - 1
            noise[pure] = hide_latents(noise[pure], latents[pure], self.sigmas[timestep[pure]].float())
        kept = kept_frames(frames, config.temporal_dropout, generator)
        hinted = self.hints.draw(clips, kept, generator) if self.hints else None
        captions = torch.where(dropped, 0, captions)
        text, time_ids = self.clips.text(captions), self._time_ids(numbers)
        return Batch(numbers, latents[:, kept], noise[:, kept], timestep, text, time_ids, offset + kept, hinted)

    def validation_batches(self, hinted: bool = False) -> list[Batch]:
        """Return the held-out clips from their first frame on, a batch for each size; their timesteps are 0.

        hinted: whether the config's keyframes have hints.
        """
        sizes = sorted({self.clips.sizes[i] for i in self.held_out})
        groups = [[i for i in self.held_out if self.clips.sizes[i] == size] for size in sizes]
        return [self._held_out(numbers, part, hinted) for part, numbers in enumerate(groups)]

    def _held_out(self, numbers: list[int], part: int, hinted: bool) -> Batch:
        source = self.clips
        frames = min([max(self.config.frames), *(source.lengths[i] for i in numbers)])
        clips = [Clip(i, 0, source.frames(i, 0, frames)) for i in numbers]
        latents = torch.stack([clip.latents for clip in clips])
        generator = step_generator(self.config.seed, _VALIDATION_STEP, part)
        noise = draw_noise(latents.shape, generator, self.config.last_noise())
        captions = torch.tensor([source.caption[i] for i in numbers])
        shown = None
        if hinted and self.hints:
            shown = self.hints.show(clips, torch.arange(frames), self.hints.keyframes(frames))
        text, timestep = source.text(captions), torch.zeros(len(clips), dtype=torch.long)
        return Batch(numbers, latents, noise, timestep, text, self._time_ids(numbers), hinted=shown)

    def _time_ids(self, numbers: list[int]) -> torch.Tensor:
        return torch.stack([self.clips.time_ids(i) for i in numbers])


def hold_out(buckets: list[list[int]], count: int) -> list[int]:
    """Return `count` clips, or all if there are fewer: the first of each bucket, by its share of the clips.

    Shares are rounded by the method of Sainte-Laguë, so a larger `count` adds clips and changes none.
    """
    taken, chosen = [0] * len(buckets), []
    for _ in range(min(count, sum(map(len, buckets)))):
        i = max(range(len(buckets)), key=lambda i: len(buckets[i]) / (2 * taken[i] + 1))
        chosen.append(buckets[i][taken[i]])
        taken[i] += 1
    return chosen


def none_left(kept_out: int, clips: int) -> ValueError:
    """Return the error that all clips are held out."""
    return ValueError(
        f"validation_clips: {kept_out} leaves none of {clips} clips to train on; keep fewer out, or give more clips"
    )
