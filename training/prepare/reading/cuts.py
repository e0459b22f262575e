"""Scenes of a video, cut by PySceneDetect's adaptive detector with the settings of Sakuga-42M."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..options import PrepareConfig
from .frames import Shown

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
