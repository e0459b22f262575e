"""A folder of captioned videos, encoded once into memory."""

import hashlib
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...commands.config import Precision
from ...commands.precision import vae_arithmetic
from ...files import whole_or_nothing
from ...temporal.hosts.diffusers.base import Base
from ...temporal.weights.listing import listed
from .prepared import is_cache, open_cache
from .source import Clips, ClipSource, DataError

log = logging.getLogger(__name__)
_VIDEO = re.compile(
    r"\.(mp4|m4v|mkv|webm|mov|avi|gif|apng|flv|f4v|wmv|asf|mpe?g|m2v|vob|m?2?ts|mts|og[vm]|3g[p2]|mxf|nut|ivf|y4m|divx|"
    r"rm|rmvb|dv|h?264|h?265|hevc)"
)
_PICTURE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?)")


def find_clips(folder: Path) -> list[Path]:
    """Return `find_videos(folder)`. Raises DataError if the folder or a video in it is missing."""
    if not folder.is_dir():
        raise DataError(
            f"clips: folder {folder} does not exist; name a folder of captioned clips, or a cache made by prepare"
        )
    files = find_videos(folder)
    if not files:
        raise DataError(f"clips: no video (.mp4, .mkv, .webm, ...) in {folder}")
    return files


def find_videos(folder: Path) -> list[Path]:
    """Return the video files of a folder and its subfolders, by name."""
    return sorted(path for path in folder.rglob("*") if is_video(path))


def find_caption(video: Path) -> str | None:
    """Return the caption beside a video: `caption` of its .json, else its .txt. Raises DataError if damaged."""
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
    """Return the caption beside a video. Raises DataError if it has none or it cannot be read."""
    caption = find_caption(video)
    if caption is None:
        raise DataError(
            f"{video}: no caption; write one to {video.with_suffix('.txt').name} beside it (it may be empty), or "
            "make a cache with `prepare`, which accepts videos without captions"
        )
    return caption


def scaled(height: int, width: int, resolution: int | None) -> tuple[int, int]:
    """Return height and width scaled so that the shorter is `resolution`; unchanged for None."""
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
    """Return a digest of all that stored latents depend on: files, VAE weights, precision, size."""
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
    progress: Callable[[int, int], None] = lambda done, total: None,
    shortest: int = 1,
) -> ClipSource:
    """Open a cache that `prepare` made; or read, scale and encode every clip of a folder of videos.

    The latents of a folder are stored in it as `.latents-<fingerprint>.npz`. Clips of fewer than `shortest` frames are
    left out, with a warning. Raises DataError that names the file if it cannot be read, is smaller than
    a latent, or has no caption; if every clip is too short; and as `open_cache` does.
    """
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
    short = listed(f"{names[i]} ({len(array)})" for i, array in enumerate(arrays) if len(array) < shortest)
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
    """Return latents of `count` clips and their frames a second; None, with a warning, if the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            return [stored[f"clip{i}"] for i in range(count)], float(stored["fps"])
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        log.warning("%s is damaged (%s); the clips are encoded again", path, error)
        return None


def _write_cache(path: Path, arrays: list[np.ndarray], fps: float) -> None:
    """Store latents for later runs. A failure is a warning, and this run goes on."""
    content: dict[str, Any] = {f"clip{i}": array for i, array in enumerate(arrays)}
    try:
        with whole_or_nothing(path) as part, part.open("wb") as file:
            np.savez(file, fps=fps, **content)
    except OSError as error:
        log.warning("%s cannot be written (%s); the next run must encode the clips again", path, error)


def _encode(
    files: list[Path],
    base: Base,
    resolution: int | None,
    precision: Precision,
    progress: Callable[[int, int], None],
) -> tuple[list[np.ndarray], float]:
    from ...media.reader import read_clip

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
        progress(i + 1, len(files))
    return arrays, float(np.median(rates))


def is_video(path: Path) -> bool:
    """Return whether a file is named as a video or an animated picture that FFmpeg reads."""
    return bool(_VIDEO.fullmatch(path.suffix.lower()))


def is_picture(path: Path) -> bool:
    """Return whether a file is named as a picture that Pillow reads."""
    return bool(_PICTURE.fullmatch(path.suffix.lower()))
