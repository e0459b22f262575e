"""Sound beside a clip."""

import av
import numpy as np
import pytest
import torch

from clips import painted
from sdxl_anime_video.media.writer import write_clip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("rate, channels", [(44100, 2), (22050, 1), (48000, 6), (37000, 2)])
def test_sound_is_cut_at_the_end_of_the_clip(path, rate, channels):
    tone = torch.sin(torch.arange(3 * rate) * 440 * 2 * torch.pi / rate)  # 3 seconds
    audio = {"waveform": 0.5 * tone.expand(1, channels, -1), "sample_rate": rate}
    write_clip(path, painted(17, 16, 16), 8.5, audio=audio)  # 2 seconds
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac" and stream.codec_context.channels == channels
        assert abs(float(stream.duration * stream.time_base) - 2) < 0.05
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
        out_rate = stream.rate
    left = sound[0, out_rate // 2 : out_rate]  # half a second from the middle
    strongest = np.abs(np.fft.rfft(left)).argmax() / (len(left) / out_rate)
    assert abs(strongest - 440) < 4
    assert 0.3 < np.sqrt((left**2).mean()) * 2**0.5 < 0.7


def test_short_sound_and_picture_are_interleaved(path):
    noise = 0.1 * torch.randn(1, 1, 4000)
    write_clip(path, painted(24, 16, 16), 12, audio={"waveform": noise, "sample_rate": 8000})
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    assert kinds.count("video") == 24 and kinds.count("audio") >= 4
    assert "audio" in kinds[:6], "sound must not lie behind all pictures"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 2e5])
def test_sound_that_is_none_is_named(path, value):
    sound = torch.zeros(1, 2, 9000)
    sound[0, 1, 8000] = value
    with pytest.raises(ValueError, match="audio holds NaN, infinite or far too loud values"):
        write_clip(path, painted(12), 12, audio={"waveform": sound, "sample_rate": 8000})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("rate", [0, -1, 0.5, float("nan"), float("inf"), 2**31])
def test_impossible_rates_of_sound_are_named(path, rate):
    with pytest.raises(ValueError, match=f"audio has a sample_rate of {rate}; "):
        write_clip(path, painted(2), 12, audio={"waveform": torch.zeros(1, 1, 100), "sample_rate": rate})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("shape", [(2, 1, 100), (1, 3, 100), (100,)])
def test_sound_of_another_shape_is_named(path, shape):
    with pytest.raises(ValueError, match="audio has shape"):
        write_clip(path, painted(2), 12, audio={"waveform": torch.zeros(shape), "sample_rate": 8000})
    assert not list(path.parent.iterdir())
