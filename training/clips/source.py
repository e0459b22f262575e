"""The interface that training reads clips through, and clips in memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from ...temporal.hosts.diffusers.base import Text, time_ids


class DataError(ValueError):
    """A folder or file that cannot be trained on; the message names it and the remedy."""


class ClipSource(ABC):
    """Encoded clips with captions, addressed by number.

    names:   of the clips
    caption: row of each clip's caption; row 0 is the empty caption
    lengths: frames of each clip
    sizes:   height and width of each clip's latents
    fps:     the most common frame rate
    """

    names: list[str]
    caption: list[int]
    lengths: list[int]
    sizes: list[tuple[int, int]]
    fps: float

    @abstractmethod
    def frames(self, i: int, start: int, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return latents `[count, 4, h, w]` fp32 of clip i, scaled for the UNet.

        With a generator they are drawn from the VAE's posterior if it is stored, otherwise they are its mean.
        """

    @abstractmethod
    def text(self, rows: torch.Tensor) -> Text:
        """Return tokens `[N, T, C]` and pooled `[N, P]`, fp32, of caption rows `[N]`."""

    @abstractmethod
    def time_ids(self, i: int) -> torch.Tensor:
        """Return SDXL's size conditioning `[6]` of clip i: original size, crop offset, target size; height first."""

    def __len__(self) -> int:
        return len(self.names)

    def buckets(self) -> list[list[int]]:
        """Return groups of clips of one picture size; only these can share a batch."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for i, size in enumerate(self.sizes):
            sizes.setdefault(size, []).append(i)
        return [sizes[size] for size in sorted(sizes)]


@dataclass
class Clips(ClipSource):
    """Clips in memory, one tensor `[F, 4, h, w]` of fp16 latents each."""

    latents: list[torch.Tensor]
    caption: list[int]
    tokens: torch.Tensor  # [captions, T, C]
    pooled: torch.Tensor  # [captions, P]
    names: list[str]
    fps: float
    factor: int = 8  # pixels per latent along a side

    def __post_init__(self) -> None:
        self.lengths = [len(latent) for latent in self.latents]
        self.sizes = [(latent.shape[2], latent.shape[3]) for latent in self.latents]

    def frames(self, i: int, start: int, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.latents[i][start : start + count].float()

    def text(self, rows: torch.Tensor) -> Text:
        return self.tokens[rows], self.pooled[rows]

    def time_ids(self, i: int) -> torch.Tensor:
        height, width = self.sizes[i]
        return time_ids(height * self.factor, width * self.factor, 1)[0]
