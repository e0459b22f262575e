"""Keyframes with a hint: a frozen ControlNet steers some frames of a step's clips.

The temporal layers learn to bring the other frames along. Without such batches they never meet a frame that is surer
than its neighbours.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...temporal.clip.keyframes import keyframe_rows
from ...temporal.hosts.diffusers.base import Base
from ..clips.source import ClipSource
from ..config.train import TrainConfig
from .batch import Clip, HintedFrames
from .hint_files import hint_files, read_hints


class Hints:
    """The hint pictures of the clips of a training phase, and which frames of a step have one."""

    def __init__(self, config: TrainConfig, base: Base, source: ClipSource):
        self.config, self.source, self.factor, self.multiple = config, source, base.factor, base.multiple
        self.files = hint_files(config, source.names)

    def draw(self, clips: list[Clip], kept: torch.Tensor, generator: torch.Generator) -> HintedFrames | None:
        """Return the keyframes of one batch, or None for one without hints.

        kept: frames of the step, counted from the first one of each clip. One half of the batches with hints has them
        at the config's keyframes, the other half at as many or fewer random frames.
        """
        hinted, usual = (torch.rand(2, generator=generator) < torch.tensor([self.config.hinted_share, 0.5])).tolist()
        if not hinted:
            return None
        rows = self.keyframes(len(kept))
        if not usual:
            count = int(torch.randint(len(rows), (1,), generator=generator)) + 1
            rows = torch.randperm(len(kept), generator=generator)[:count].sort().values
        return self.show(clips, kept, rows)

    def keyframes(self, frames: int) -> torch.Tensor:
        """Return the config's keyframes in a clip of this length, rising."""
        return torch.tensor(keyframe_rows(self.config.keyframes, frames)).sort().values

    def show(self, clips: list[Clip], kept: torch.Tensor, rows: torch.Tensor) -> HintedFrames:
        """Return the hints of frames `rows` among the `kept` ones of these clips."""
        return HintedFrames(rows, torch.stack([self.pictures(clip.number, clip.start + kept[rows]) for clip in clips]))

    def pictures(self, i: int, frames: torch.Tensor) -> torch.Tensor:
        """Return the hint pictures `[K, 3, H, W]`, 0..1, of frames `[K]` of clip i.

        Raises DataError for a video that has not the frames of the clip.
        """
        height, width = (side * self.factor for side in self.source.sizes[i])
        clip = (self.source.lengths[i], height, width)
        return read_hints(self.files[i], frames.tolist(), clip, self.config.resolution, self.multiple)


def describe_hints(config: TrainConfig) -> dict[str, str]:
    """Return `trained_hints` of the weights' metadata; nothing where there were none."""
    if config.controlnet is None:
        return {}
    name = Path(config.controlnet).name
    return {"trained_hints": f"{name} in {config.hinted_share:.0%} of batches, keyframes {config.keyframes} or random"}
