"""Write the sound of a clip: ComfyUI's AUDIO as AAC."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
LOUDEST = 2**16  # sound lies between -1 and 1; with noise of 200000 FFmpeg's AAC encoder does not return
HIGHEST_RATE = 1_000_000  # Hz
# Rates of AAC; sound of other rates is resampled to 48 kHz.
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


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
