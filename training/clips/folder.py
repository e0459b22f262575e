"""What training draws from: prepared clips, or a folder of captioned videos, encoded once into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...commands.config import Precision
from ...commands.precision import vae_arithmetic
from ...temporal.hosts.diffusers.base import Base, Text, time_ids

log = logging.getLogger(__name__)
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif"}


class DataError(ValueError):
    """A folder or file that cannot be trained on; the message names it."""


class ClipSource(ABC):
    """Encoded clips with captions, by number.

    names:   of the clips
    caption: row of each clip's caption; row 0 is the empty caption
    lengths: frames
    sizes:   height and width of the latents
    fps:     frames a second of most clips
    """

    names: list[str]
    caption: list[int]
    lengths: list[int]
    sizes: list[tuple[int, int]]
    fps: float

    @abstractmethod
    def frames(self, i: int, start: int, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Latents `[count, 4, h, w]` fp32 of clip i, scaled for the UNet.

        With a generator they are drawn from the VAE's posterior where that is stored; else they are its mean.
        """

    @abstractmethod
    def text(self, rows: torch.Tensor) -> Text:
        """Tokens `[N, T, C]` and pooled `[N, P]`, fp32, of caption rows `[N]`."""

    @abstractmethod
    def time_ids(self, i: int) -> torch.Tensor:
        """SDXL's size conditioning `[6]` of clip i: original, crop offset and target, each height before width."""

    def __len__(self) -> int:
        return len(self.names)

    def buckets(self) -> list[list[int]]:
        """Clips that can share a batch: those of one picture size."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for i, size in enumerate(self.sizes):
            sizes.setdefault(size, []).append(i)
        return [sizes[size] for size in sorted(sizes)]


@dataclass
class Clips(ClipSource):
    """Clips in memory: latents `[F, 4, h, w]` each (half precision)."""

    latents: list[torch.Tensor]
    caption: list[int]
    tokens: torch.Tensor  # [captions, T, C]
    pooled: torch.Tensor  # [captions, P]
    names: list[str]
    fps: float
    factor: int = 8  # pixels to a latent, a side

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


def find_clips(folder: Path) -> list[Path]:
    """Video files of a folder and its subfolders, by name. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"clips: folder {folder} does not exist; name one of captioned clips, or what prepare made")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise DataError(f"clips: no video ({', '.join(sorted(VIDEO_SUFFIXES))}) in {folder}")
    return files


def find_caption(video: Path) -> str | None:
    """The caption beside a video: `caption` of its .json, else its .txt. Raises DataError if that cannot be read."""
    if (path := video.with_suffix(".json")).exists():
        try:
            caption = json.loads(path.read_text(encoding="utf-8-sig")).get("caption")
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a JSON object: {error}") from None
        if isinstance(caption, str):
            return caption.strip()
    if (path := video.with_suffix(".txt")).exists():
        try:
            return path.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None
    return None


def read_caption(video: Path) -> str:
    """As `find_caption`; raises DataError if there is none, too."""
    caption = find_caption(video)
    if caption is None:
        raise DataError(
            f"{video}: no caption; put it in {video.with_suffix('.txt').name} beside the video (it may be empty), "
            "or let `prepare` make a cache: that takes videos without captions, too"
        )
    return caption


def scaled(height: int, width: int, resolution: int | None) -> tuple[int, int]:
    """Height and width of which the shorter is `resolution`; as they are for None."""
    if resolution is None or min(height, width) == resolution:
        return height, width
    scale = resolution / min(height, width)
    return round(height * scale), round(width * scale)


def fit(frames: np.ndarray, resolution: int | None, multiple: int) -> np.ndarray:
    """Scale uint8 `[F, H, W, 3]` so that the shorter side is `resolution`, then crop the middle to multiples."""
    import cv2

    before = frames.shape[1:3]
    height, width = scaled(*before, resolution)
    if (height, width) != before:
        how = cv2.INTER_AREA if min(height, width) < min(before) else cv2.INTER_CUBIC
        frames = np.stack([cv2.resize(frame, (width, height), interpolation=how) for frame in frames])
    rows, columns = height // multiple * multiple, width // multiple * multiple
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


def _fingerprint(files: Iterable[Path], base: Base, resolution: int | None, precision: Precision) -> str:
    """Changes with the files, the VAE's weights and the size: with whatever makes stored latents stale."""
    bf16 = vae_arithmetic(base.vae.device, precision) == torch.bfloat16
    digest = hashlib.sha256(f"{resolution}/{bf16}/{base.vae.config.scaling_factor}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}/{stat.st_size}/{stat.st_mtime_ns}".encode())
    for name, weight in base.vae.state_dict().items():
        digest.update(f"{name}/{tuple(weight.shape)}/{weight.double().sum().item()}".encode())
    return digest.hexdigest()[:16]


def load_clips(
    folder: Path,
    base: Base,
    resolution: int | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
    shortest: int = 1,
) -> ClipSource:
    """Open what `prepare` made; or read, scale and encode every clip of a folder, or take an earlier run's latents.

    The latter are kept in `.latents-<fingerprint>.npz` in the folder. Clips of fewer than `shortest` frames are left
    out, with a warning that names each. Raises DataError that names the file for one that cannot be read, is smaller
    than a latent, or has no caption, if every clip is too short, and for a cache of another checkpoint.
    """
    from .prepared import is_cache, open_cache

    if is_cache(folder):
        return open_cache(folder, base, resolution, shortest)
    files = find_clips(folder)
    captions = [read_caption(file) for file in files]
    cache = folder / f".latents-{_fingerprint(files, base, resolution, precision)}.npz"
    stored = _read_cache(cache, len(files))
    if stored is None:
        stored = _encode(files, base, resolution, precision, progress)
        _write_cache(cache, *stored)
    arrays, fps = stored
    names = [str(file.relative_to(folder)) for file in files]
    kept = [i for i, array in enumerate(arrays) if len(array) >= shortest]
    short = ", ".join(f"{names[i]} ({len(array)})" for i, array in enumerate(arrays) if len(array) < shortest)
    if not kept:
        raise DataError(f"frames: {shortest} is more than any clip in {folder} has: {short}; lower it")
    if short:
        log.warning("clips of fewer than %d frames are left out: %s", shortest, short)
    captions = [captions[i] for i in kept]
    known = ["", *sorted(set(captions) - {""})]
    encoded = [base.encode_text(known[i : i + 32]) for i in range(0, len(known), 32)]
    tokens, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    return Clips(
        latents=[torch.from_numpy(arrays[i]) for i in kept],
        caption=[known.index(caption) for caption in captions],
        tokens=tokens.cpu(),
        pooled=pooled.cpu(),
        names=[names[i] for i in kept],
        fps=fps,
        factor=base.factor,
    )


def _read_cache(path: Path, count: int) -> tuple[list[np.ndarray], float] | None:
    """Latents of `count` clips and their frames a second; None, with a warning, if the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            return [stored[f"clip{i}"] for i in range(count)], float(stored["fps"])
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        log.warning("%s is damaged (%s); the clips are encoded again", path, error)
        return None


def _write_cache(path: Path, arrays: list[np.ndarray], fps: float) -> None:
    """Keep latents for later runs; where that cannot be done, this run goes on without."""
    from ...files import whole_or_nothing

    content: dict[str, Any] = {f"clip{i}": array for i, array in enumerate(arrays)}
    try:
        with whole_or_nothing(path) as part, part.open("wb") as file:
            np.savez(file, fps=fps, **content)
    except OSError as error:
        log.warning("%s cannot be written (%s); the next run has to encode the clips again", path, error)


def _encode(
    files: list[Path],
    base: Base,
    resolution: int | None,
    precision: Precision,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[np.ndarray], float]:
    from ...media.video import read_clip

    arrays, rates = [], []
    for i, file in enumerate(files):
        try:
            frames, fps = read_clip(file)
        except Exception as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        frames = fit(frames, resolution, base.multiple)
        if 0 in frames.shape:
            raise DataError(f"{file}: smaller than {base.multiple} x {base.multiple} pixels")
        arrays.append(base.encode(torch.from_numpy(frames), precision=precision).half().numpy())
        rates.append(float(fps))
        if progress:
            progress(i + 1, len(files))
    return arrays, float(np.median(rates))


def draw_batch(
    clips: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[int]]:
    """`count` random clips of one size, cut to one length from the list at random places.

    No clip may be shorter than every choice; the length is one that all the drawn clips have. Returns latents
    `[count, F, 4, h, w]` fp32, caption indices `[count]`, clip indices, and the frames that the cuts begin at.
    """

    def integer(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    sizes = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float32)
    bucket = buckets[int(torch.multinomial(sizes, 1, generator=generator))]
    if len(bucket) >= count:
        chosen = [bucket[i] for i in torch.randperm(len(bucket), generator=generator)[:count].tolist()]
    else:
        chosen = [bucket[integer(len(bucket))] for _ in range(count)]
    room = min(clips.lengths[i] for i in chosen)
    choices = [frames for frames in frame_choices if frames <= room]
    frames = choices[integer(len(choices))]
    cut, starts = [], []
    for i in chosen:
        starts.append(integer(clips.lengths[i] - frames + 1))
        cut.append(clips.frames(i, starts[-1], frames, generator))
    return torch.stack(cut), torch.tensor([clips.caption[i] for i in chosen]), chosen, starts


def longest_draw(clips: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int]) -> int:
    """The largest of the choices that `draw_batch` can cut a batch to."""
    lengths = [sorted((clips.lengths[i] for i in bucket), reverse=True) for bucket in buckets]
    room = max(some[count - 1 if count <= len(some) else 0] for some in lengths)  # only small buckets repeat clips
    return max(frames for frames in frame_choices if frames <= room)
