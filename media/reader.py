"""Read clips: any video or animated picture that FFmpeg knows."""

from collections.abc import Iterator, Sequence
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
    """The header of a file.

    fps:      exact frame rate; the mean rate if frames last differently
    width, height: in pixels
    frames:   number in the header, including frames that an edit list hides; 0 if it has none
    metadata: tags of the file; JSON values are parsed
    """

    fps: Fraction
    width: int
    height: int
    frames: int
    metadata: dict[str, Any]


def probe_clip(path: str | Path) -> ClipInfo:
    """Return rate, size and tags without decoding. Raises FileNotFoundError, or ValueError if it is no video."""
    with _open(path) as (container, stream):
        fps = _gif_rate(container, stream) if container.format.name == "gif" else stream.average_rate
        if not fps:
            raise ValueError(f"{path} has no frame rate; it may be cut off. Re-encode it or leave it out")
        return ClipInfo(Fraction(fps), stream.width, stream.height, stream.frames, from_tags(container.metadata))


def iter_clip(path: str | Path) -> Iterator[np.ndarray]:
    """Yield frames, uint8 RGB `[H, W, 3]`; one is in memory at a time. Raises as `probe_clip` does."""
    return (_pixels(frame) for _, frame in iter_timed(path))


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    # Only with the range given does PyAV before 17 use the file's colour matrix, and not BT.601 for all.
    return frame.reformat(format="rgb24", dst_color_range=FULL_RANGE).to_ndarray()


def read_frames(path: str | Path, places: Sequence[int]) -> np.ndarray:
    """Return the frames at these places, uint8 RGB `[K, H, W, 3]`. Raises as `probe_clip` does.

    Frames after the last place are not decoded, and only these frames are converted. Raises ValueError for a place
    beyond the end.
    """
    wanted, pictures = set(places), {}
    for place, (_, frame) in enumerate(islice(iter_timed(path), max(wanted) + 1)):
        if place in wanted:
            pictures[place] = _pixels(frame)
    if missing := wanted - set(pictures):
        raise ValueError(f"{path} ends before frame {min(missing)}")
    return np.stack([pictures[place] for place in places])


def count_frames(path: str | Path) -> int:
    """Return the number of frames that are shown, by decoding them all. Raises as `probe_clip` does."""
    return sum(1 for _ in iter_timed(path))


def iter_timed(path: str | Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield decoded frames, each with its time in seconds. Raises as `probe_clip` does.

    A frame without a time stamp follows the one before it by one frame of the mean rate.
    """
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO"
        interval = float(1 / stream.average_rate) if stream.average_rate else 1 / 24
        time = -interval
        for frame in container.decode(stream):
            time = time + interval if frame.time is None else frame.time
            yield time, frame


def read_clip(path: str | Path, max_frames: int | None = None) -> tuple[np.ndarray, Fraction]:
    """Return the frames (at most `max_frames`), uint8 RGB `[F, H, W, 3]`, and the exact frames per second.

    Raises FileNotFoundError, or ValueError for a file that is no video or holds no frame.
    """
    fps = probe_clip(path).fps
    frames = list(islice(iter_clip(path), max_frames))
    if not frames:
        raise ValueError(f"{path} holds no frames")
    return np.stack(frames), fps


@contextmanager
def _open(path: str | Path):
    """Yield the container and its first video stream. Only files may be opened: no playlist reaches the network."""
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
    """Return whether a box of this mp4 ends beyond the file. FFmpeg would return the frames before the cut."""
    length = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= length:
            file.seek(position)
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the size follows the name, in 64 bits
                size = int.from_bytes(header[8:16], "big")
            if size == 0:  # up to the end of the file
                return False
            position += max(size, 8)
    return position > length


def _gif_rate(container, stream) -> Fraction:
    """Return frames over total time. FFmpeg's own average uses the first delays only and reads 23 fps as 25."""
    packets = [packet for packet in container.demux(stream) if packet.duration]
    total = sum(packet.duration for packet in packets) * stream.time_base
    return len(packets) / total if total else Fraction(stream.average_rate or 0)
