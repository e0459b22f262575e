"""Write clips frame by frame: H.264 and AAC in mp4, or numbered PNG files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import whole_or_nothing
from .metadata import MOVFLAGS, to_tags
from .pixels import BT709, FULL_RANGE, LIMITED_RANGE, to_even, to_uint8
from .rates import exact_fps

# Frames that the encoder holds: its look-ahead, and one for each thread. With x264's defaults (40, and 1.5 threads for
# each core) long clips would need more memory than short ones. Quality and size of painted clips are the same.
LOOKAHEAD, THREADS = 16, 3
LARGEST_SIDE = 16384  # pixels; x264 opens no larger frame
PATTERN = "frame_%05d.png"
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
LOUDEST = 2**16  # sound lies between -1 and 1; with noise of 200000 FFmpeg's AAC encoder does not return
HIGHEST_RATE = 1_000_000  # Hz
# Rates of AAC; sound of other rates is resampled to 48 kHz.
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def write_clip(
    path: str | Path,
    frames: Iterable[Any],
    fps: float | Fraction,
    crf: float = 16,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    audio: Mapping[str, Any] | None = None,
) -> int:
    """Encode `frames` into an mp4 while they arrive; return their number.

    H.264, 4:2:0, BT.709 colour in limited range, with these tags. Memory does not grow with the number of frames. The
    file appears when it is complete; an error or interrupt leaves nothing.

    path: ends in .mp4; an existing file is replaced.
    frames: pictures `[H, W, 3]` of one size, uint8 0..255 or floating point 0..1, arrays or tensors. An odd width
        or height gets one more column or row, a copy of the last: 4:2:0 needs even sizes.
    fps: frames per second, kept exactly; 23.976 means 24000/1001 (see `exact_fps`).
    crf: constant rate factor, 0 (lossless, which browsers do not play) to 51 (smallest).
    metadata: tags of the file; values other than strings are written as JSON.
    progress: called after each frame with the number of frames done; an exception stops the writing.
    audio: ComfyUI's `{"waveform": [1, channels, samples], "sample_rate": Hz}`, cut at the end of the clip.

    Raises ValueError for bad arguments and OSError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"a clip is written as .mp4, got {path.name}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be between 0 and 51, got {crf}")
    rate = exact_fps(fps)
    options = {"movflags": MOVFLAGS, "movie_timescale": str(_timescale(rate))}
    with (
        whole_or_nothing(path) as part,
        av.open(str(part), "w", format="mp4", options=options) as container,
    ):
        container.metadata.update(to_tags(metadata))
        return _encode(container, frames, rate, crf, progress, audio)


def _encode(container, frames, rate, crf, progress, audio) -> int:
    pictures = (to_even(to_uint8(frame, name=f"frame {index}")) for index, frame in enumerate(frames))
    first = next(pictures, None)
    if first is None:
        raise ValueError("a clip needs at least one frame, got none")
    if max(first.shape) > LARGEST_SIDE:
        raise ValueError(
            f"frames of {first.shape[1]}x{first.shape[0]} px are too large for H.264, which takes {LARGEST_SIDE} px a "
            "side at most; scale them down"
        )
    stream = _video_stream(container, first.shape, rate, crf)
    track = AudioTrack(container, audio) if audio else None
    count = 0
    for count, picture in enumerate(chain([first], pictures), start=1):
        if picture.shape != first.shape:
            raise ValueError(
                f"frame {count - 1} is {picture.shape[1]}x{picture.shape[0]} but the clip is "
                f"{first.shape[1]}x{first.shape[0]}; give frames of one size"
            )
        container.mux(stream.encode(_to_yuv(picture, count - 1, rate)))
        if track is not None:
            track.encode_until(count / rate)
        if progress is not None:
            progress(count)
    container.mux(stream.encode(None))
    if track is not None:
        track.finish()
    return count


def _video_stream(container, size: tuple[int, ...], rate: Fraction, crf: float):
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = size[:2]
    stream.pix_fmt = "yuv420p"
    stream.time_base = 1 / rate
    stream.options = {"crf": str(crf), "rc-lookahead": str(LOOKAHEAD), "threads": str(THREADS)}
    context = stream.codec_context
    context.color_range = LIMITED_RANGE
    context.color_primaries = context.color_trc = context.colorspace = BT709
    return stream


def _to_yuv(picture: np.ndarray, index: int, rate: Fraction) -> av.VideoFrame:
    """Convert RGB to Y'CbCr by the BT.709 matrix. swscale's default is BT.601, with which greens shift visibly."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=BT709, src_color_range=FULL_RANGE, dst_color_range=LIMITED_RANGE
    )
    frame.colorspace, frame.color_range = BT709, LIMITED_RANGE
    frame.pts, frame.time_base = index, 1 / rate
    return frame


def _timescale(rate: Fraction) -> int:
    """Return ticks a second in which a frame has a whole length. With FFmpeg's 1000 a clip of 17 frames at 12 fps would
    seem to end before its last frame does."""
    return rate.numerator * -(-1000 // rate.numerator)


def save_stills(frames: Iterable[Any], folder: Path, metadata: Mapping[str, Any] | None = None) -> Iterator[np.ndarray]:
    """Write each frame to `folder/frame_00000.png`, `frame_00001.png`, ... and yield it as uint8 `[H, W, 3]`.

    metadata: text chunks of every PNG; values other than strings as JSON, as ComfyUI's page reads them. Keys of a PNG
        are Latin-1; their other letters are written as `\\u043a`.
    Raises ValueError as `to_uint8` does.
    """
    text = PngInfo()
    for key, value in to_tags(metadata).items():
        text.add_text(key.encode("latin-1", "backslashreplace").decode("latin-1"), value)
    for index, frame in enumerate(frames):
        picture = to_uint8(frame, name=f"frame {index}")
        Image.fromarray(picture).save(folder / (PATTERN % index), pnginfo=text, compress_level=4)
        yield picture


class AudioTrack:
    """An AAC stream in `container`, encoded in pieces so that sound and pictures alternate in the file.

    audio: `{"waveform": [1, channels, samples] float, "sample_rate": Hz}`.
    Raises ValueError for another shape, more than one clip, a number of channels other than 1, 2 or 6, an impossible
    rate, or values that are no sound.
    """

    def __init__(self, container, audio: Mapping[str, Any]):
        samples = np.asarray(audio["waveform"].detach().float().cpu())
        if samples.ndim != 3 or samples.shape[0] != 1 or samples.shape[1] not in _LAYOUTS:
            raise ValueError(
                f"audio has shape {list(samples.shape)}; give one clip of sound [1, channels, samples] with 1, 2 or 6 "
                "channels"
            )
        if not (np.abs(samples) <= LOUDEST).all():
            raise ValueError("audio holds NaN, infinite or far too loud values; samples of sound lie between -1 and 1")
        if not 1 <= audio["sample_rate"] <= HIGHEST_RATE:
            raise ValueError(
                f"audio has a sample_rate of {audio['sample_rate']}; it must lie between 1 and {HIGHEST_RATE:,} Hz"
            )
        self._samples = np.ascontiguousarray(samples[0])  # [channels, samples]
        self._rate = int(audio["sample_rate"])
        self._layout = _LAYOUTS[samples.shape[1]]
        self._done = 0
        self._container = container
        self._stream = container.add_stream("aac", rate=self._rate if self._rate in _RATES else 48000)
        self._stream.codec_context.layout = self._layout

    def encode_until(self, seconds: Fraction) -> None:
        """Encode the sound up to a time from the start of the clip."""
        end = min(int(seconds * self._rate), self._samples.shape[1])
        if end <= self._done:
            return
        chunk = np.ascontiguousarray(self._samples[:, self._done : end])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts, frame.time_base = self._done, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._done = end

    def finish(self) -> None:
        """Write the rest that the encoder holds."""
        self._container.mux(self._stream.encode(None))
