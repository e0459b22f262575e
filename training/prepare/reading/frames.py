"""Decoded frames of a source, each with the span of time in which it is on screen."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ....media.reader import iter_timed, probe_clip
from ...clips.source import DataError
from ..options import PrepareConfig
from .sources import Source

HOLD = 4.0  # seconds at most; a longer frame is a still or has a damaged time stamp


class Shown(NamedTuple):
    """A frame (av.VideoFrame) that is on screen from `start` until `end`, in seconds."""

    start: float
    end: float
    frame: Any


def size_of(source: Source) -> tuple[int, int]:
    """Return height and width in square pixels. Raises DataError, ValueError or OSError if they cannot be read."""
    if source.kind == "pictures":
        from PIL import Image

        with Image.open(source.files[0]) as picture:
            return picture.height, picture.width
    import av

    info = probe_clip(source.files[0])
    with av.open(source.files[0], options={"protocol_whitelist": "file"}) as container:
        aspect = container.streams.video[0].sample_aspect_ratio
    return info.height, round(info.width * (aspect or 1))


def shown_frames(source: Source, fps: float) -> Iterator[Shown]:
    """Yield frames with their spans; a picture lasts until the next number, at `fps` numbers a second.

    A frame comes late by one, because it ends where the next one starts. The last one lasts as long as the one before.
    Raises DataError, ValueError or OSError for a file that is damaged.
    """
    frames = _pictures(source, fps) if source.kind == "pictures" else iter_timed(source.files[0])
    before = None
    interval = 1 / fps
    for time, frame in frames:
        if before is not None:
            interval = max(time - before[0], 0.0)
            yield Shown(before[0], before[0] + min(interval, HOLD), before[1])
            time = max(time, before[0])
        before = (time, frame)
    if before is None:
        raise DataError("no frames")
    yield Shown(before[0], before[0] + min(interval or 1 / fps, HOLD), before[1])


def _pictures(source: Source, fps: float) -> Iterator[tuple[float, Any]]:
    import av
    import numpy as np
    from PIL import Image

    size = None
    for number, file in zip(source.numbers, source.files, strict=True):
        with Image.open(file) as picture:
            if picture.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            pixels = np.asarray(picture.convert("RGB"))
        if size not in (None, pixels.shape):
            raise DataError(f"{Path(file).name} has another size than the pictures before it")
        size = pixels.shape
        yield (number - source.numbers[0]) / fps, av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")


_SIDE = 256  # width in pixels at which frames are compared, as in PySceneDetect's own reader
_WINDOW = 2  # frames before and after a cut that it is compared with


def scenes(frames: Iterable[Shown], config: PrepareConfig) -> Iterator[tuple[int, Shown]]:
    """Yield each frame with the number of its scene, two frames late. A gap in time also begins a scene."""
    cuts = _detected(frames, config) if config.cuts == "adaptive" else ((False, shown) for shown in frames)
    scene, end = 0, None
    for cut, shown in cuts:
        if cut or (end is not None and shown.start > end + 1e-3):
            scene += 1
        end = shown.end
        yield scene, shown


def given_scenes(frames: Iterable[Shown], spans: list[tuple[float, float]]) -> Iterator[tuple[int, Shown]]:
    """Yield the frames within spans of seconds, each with its span's number; frames between spans are left out."""
    rest = deque(enumerate(spans))
    for shown in frames:
        while rest and rest[0][1][1] <= shown.start + 1e-3:
            rest.popleft()
        if not rest:
            return
        number, (start, end) = rest[0]
        if shown.start >= start - 1e-3:
            yield number, shown._replace(end=min(shown.end, end))


def _detected(frames: Iterable[Shown], config: PrepareConfig) -> Iterator[tuple[bool, Shown]]:
    """Yield whether a scene begins with a frame, and the frame."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(
        adaptive_threshold=config.cut_threshold,
        min_scene_len=config.cut_min_frames,
        window_width=_WINDOW,
        min_content_val=config.cut_min_content,
    )
    held: deque[Shown] = deque()
    for index, shown in enumerate(frames):
        held.append(shown)
        # The detector counts frames; the rate has no effect.
        found = detector.process_frame(FrameTimecode(index, fps=24.0), _small(shown.frame))
        if len(held) > _WINDOW:  # the detector decides about the middle of its window
            yield bool(found), held.popleft()
    yield from ((False, shown) for shown in held)


def _small(frame):
    """Return a small picture BGR `[h, w, 3]` to compare."""
    shrink = max(1.0, frame.width / _SIDE)
    width, height = round(frame.width / shrink), max(1, round(frame.height / shrink))
    return frame.reformat(width, height, format="bgr24", interpolation="AREA").to_ndarray()
