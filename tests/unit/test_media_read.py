"""Reading clips: other formats, damaged files, and what is no video."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import painted
from sdxl_anime_video.media.reader import count_frames, iter_clip, probe_clip, read_clip, read_frames
from sdxl_anime_video.media.writer import write_clip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.mp4"


def write_other(path, container, codec, pixels, fps, frames):
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for picture in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    "container, codec, pixels, fps",
    [
        ("webm", "libvpx-vp9", "yuv420p", Fraction(24000, 1001)),
        ("webm", "libvpx-vp9", "yuv420p", Fraction(12)),
        ("gif", "gif", "rgb8", Fraction(10)),
        ("gif", "gif", "rgb8", Fraction(12)),
        ("mp4", "mpeg4", "yuv420p", Fraction(17, 2)),
        ("matroska", "ffv1", "bgr0", Fraction(30)),
    ],
)
def test_reads_other_formats(tmp_path, container, codec, pixels, fps):
    frames = painted(12, 64, 64)
    path = tmp_path / "clip.bin"
    write_other(path, container, codec, pixels, fps, frames)
    clip, rate = read_clip(path)
    assert clip.shape == frames.shape and rate == fps
    assert np.abs(clip.astype(int) - frames).mean() < 20, "a palette of 256 colours costs the most"
    assert sum(1 for _ in iter_clip(path)) == 12
    assert read_clip(path, max_frames=5)[0].shape[0] == 5


def test_info(path):
    write_clip(path, painted(2, 20, 30), 8.5, metadata={"workflow": {"a": 1}})
    info = probe_clip(path)
    assert (info.width, info.height, info.fps) == (30, 20, Fraction(17, 2))
    assert info.metadata["workflow"] == {"a": 1}


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9])
def test_cut_off_file_is_an_error_not_a_shorter_clip(path, keep):
    write_clip(path, painted(20), 12)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"clip\.mp4"):
        read_clip(path)


@pytest.mark.parametrize("content", [b"<html></html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x00" * 4096])
def test_what_is_no_video_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip\.mp4"):
        read_clip(path)


def test_playlist_does_not_reach_the_network(path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"clip\.mp4"):
        read_clip(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        read_clip(tmp_path / "absent.mp4")


def test_sound_alone_is_no_clip(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(ValueError, match="no video"):
        read_clip(path)


MEDIA = os.environ.get("SAV_TEST_MEDIA")  # a folder of clips that others made


@pytest.mark.parametrize(
    "name, frames, fps",
    [("animatediff_model_01_01.gif", 48, Fraction(300, 13)), ("big_buck_bunny.mp4", 132, Fraction(25))],
)
def test_clips_from_elsewhere(path, name, frames, fps):
    if not MEDIA or not Path(MEDIA, name).is_file():
        pytest.skip(f"SAV_TEST_MEDIA names no folder with {name}")
    source = Path(MEDIA, name)
    assert probe_clip(source).fps == fps
    assert sum(1 for _ in iter_clip(source)) == frames
    clip, _ = read_clip(source, max_frames=4)
    write_clip(path, clip, fps)
    back, rate = read_clip(path)
    difference = (back.astype(int) - clip).reshape(4, clip.shape[1] // 8, 8, clip.shape[2] // 8, 8, 3).mean((2, 4))
    assert rate == fps and np.abs(difference).mean() < 2


def test_frames_are_read_by_their_places_in_any_order(path):
    write_clip(path, painted(frames=9), Fraction(12))
    every = read_clip(path)[0]
    assert np.array_equal(read_frames(path, [7, 2, 2]), every[[7, 2, 2]])
    assert count_frames(path) == 9
    with pytest.raises(ValueError, match="ends before frame 9"):
        read_frames(path, [3, 9])
