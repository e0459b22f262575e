"""Reading clips: any video or animated picture that FFmpeg knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from .metadata import from_tags
from .pixels import FULL_RANGE


@dataclass(frozen=True)
class ClipInfo:
    """What a file says about itself.

    fps:      exact frame rate; the mean one where frames last differently
    width, height: in pixels
    frames:   as its header says, those that an edit list hides included; 0 where it does not say
    metadata: tags of the file; JSON values are parsed
    """

    fps: Fraction
    width: int
    height: int
    frames: int
    metadata: dict[str, Any]


def probe_clip(path: str | Path) -> ClipInfo:
    """Rate, size and tags without decoding. Raises FileNotFoundError, or ValueError for a file that is no video."""
    with _open(path) as (container, stream):
        fps = _gif_rate(container, stream) if container.format.name == "gif" else stream.average_rate
        if not fps:
            raise ValueError(f"{path} has no frame rate; it may be cut off. Re-encode it or leave it out")
        return ClipInfo(Fraction(fps), stream.width, stream.height, stream.frames, from_tags(container.metadata))


def iter_clip(path: str | Path) -> Iterator[np.ndarray]:
    """Frames one by one, uint8 RGB ``[H, W, 3]``; one is in memory at a time. Raises as ``probe_clip`` does."""
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            # Naming the range makes PyAV before 17 heed the file's colour matrix, too; it would take BT.601 for all.
            yield frame.reformat(format="rgb24", dst_color_range=FULL_RANGE).to_ndarray()


def iter_timed(path: str | Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames as they were decoded, each with its time in seconds. Raises as ``probe_clip`` does.

    A frame without a time stamp comes one frame of the mean rate after the one before it.
    """
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO"
        interval = float(1 / stream.average_rate) if stream.average_rate else 1 / 24
        time = -interval
        for frame in container.decode(stream):
            time = time + interval if frame.time is None else frame.time
            yield time, frame


def read_clip(path: str | Path, max_frames: int | None = None) -> tuple[np.ndarray, Fraction]:
    """The frames (the first ``max_frames`` of them), uint8 RGB ``[F, H, W, 3]``, and the exact frames per second.

    Raises FileNotFoundError, or ValueError for a file that is no video or holds no frame.
    """
    fps = probe_clip(path).fps
    frames = list(islice(iter_clip(path), max_frames))
    if not frames:
        raise ValueError(f"{path} holds no frames")
    return np.stack(frames), fps


@contextmanager
def _open(path: str | Path):
    """The container and its first video stream. With files as the only protocol no playlist leads to the network."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file")
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video")
            if "mp4" in container.format.name and _cut_off(Path(path)):
                raise ValueError(f"{path} is cut off: its last part is missing. Copy or download it again")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be read as a video ({error.strerror}); it may be damaged or cut off"
        ) from error


def _cut_off(path: Path) -> bool:
    """Whether a box of this mp4 reaches beyond the end of the file. FFmpeg would give the frames before the cut."""
    length = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= length:
            file.seek(position)
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the true size follows the name, in 64 bits
                size = int.from_bytes(header[8:16], "big")
            if size == 0:  # up to the end of the file
                return False
            position += max(size, 8)
    return position > length


def _gif_rate(container, stream) -> Fraction:
    """Frames by total time. FFmpeg's own average looks at the first delays only, and 23 fps read as 25."""
    packets = [packet for packet in container.demux(stream) if packet.duration]
    total = sum(packet.duration for packet in packets) * stream.time_base
    return len(packets) / total if total else Fraction(stream.average_rate or 0)
