"""Writing clips: rates, colour, metadata, sound, and what is left on disk when something fails."""

import json
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clips import PALETTE, painted
from sdxl_anime_video.files import whole_or_nothing
from sdxl_anime_video.media.rates import exact_fps
from sdxl_anime_video.media.reader import iter_clip, probe_clip, read_clip
from sdxl_anime_video.media.writer import write_clip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.mp4"


def boxes(data: bytes) -> list[str]:
    """Names of the boxes of an ISO media file, in order."""
    names = []
    while data:
        size = int.from_bytes(data[:4], "big")
        names.append(data[4:8].decode("latin-1"))
        data = data[size:]
    return names


@pytest.mark.parametrize(
    "given, exact",
    [
        (12, Fraction(12)),
        (12.0, Fraction(12)),
        (8.5, Fraction(17, 2)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (24, Fraction(24)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (0.25, Fraction(1, 4)),
        (Fraction(300, 13), Fraction(300, 13)),
    ],
)
def test_exact_fps(given, exact):
    assert exact_fps(given) == exact


@pytest.mark.parametrize("bad", [0, -12, float("nan"), float("inf"), 1e-9])
def test_impossible_fps(bad, path):
    with pytest.raises(ValueError, match="fps"):
        write_clip(path, painted(1), bad)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("frames", [1, 2, 17])
@pytest.mark.parametrize("fps", [12, 23.976, 8.5, Fraction(25, 3)])
def test_every_frame_and_the_exact_rate_come_back(path, fps, frames):
    assert write_clip(path, painted(frames, 16, 32), fps) == frames
    clip, rate = read_clip(path)
    assert clip.shape == (frames, 16, 32, 3) and clip.dtype == np.uint8
    assert rate == exact_fps(fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == frames
        assert stream.duration * stream.time_base == frames / rate


def test_colours_come_back(path):
    clip = painted()
    write_clip(path, clip, 12, crf=16)
    difference = read_clip(path)[0].astype(int) - clip
    assert np.abs(difference @ [0.2126, 0.7152, 0.0722]).mean() < 1.5
    assert np.percentile(np.abs(difference), 90) <= 4, "only edges, where 4:2:0 halves the chroma, may differ more"
    # Inside a band nothing blurs: what is left there is the encoder's and the matrices' rounding.
    for band, colour in enumerate(PALETTE):
        column = int((band + 0.5) * 128 / len(PALETTE))
        inside = read_clip(path)[0][:, 4:12, column - 3 : column + 3].reshape(-1, 3).mean(0)
        assert np.abs(inside - colour).max() < 3, f"{colour} came back as {inside}"


def test_encoded_values_are_bt709_limited_range(path):
    """Luma and chroma in the file against the definition in ITU-R BT.709, section 3."""
    clip = np.empty((1, 32, 32 * len(PALETTE), 3), np.uint8)
    for band, colour in enumerate(PALETTE):
        clip[:, :, 32 * band : 32 * band + 32] = colour
    write_clip(path, clip, 12, crf=4)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
    assert (context.color_range, context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1, 1)
    planes = frame.to_ndarray()
    luma = planes[:32]
    blue, red = planes[32:40].reshape(16, -1), planes[40:48].reshape(16, -1)
    for band, colour in enumerate(PALETTE):
        r, g, b = np.array(colour) / 255
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        expected = [16 + 219 * y, 128 + 224 * (b - y) / 1.8556, 128 + 224 * (r - y) / 1.5748]
        x = 32 * band + 16
        got = [luma[8:24, x].mean(), blue[4:12, x // 2].mean(), red[4:12, x // 2].mean()]
        np.testing.assert_allclose(got, expected, atol=1.5)


@pytest.mark.parametrize("height, width", [(15, 32), (16, 31), (15, 31), (1, 1)])
def test_odd_sizes_repeat_the_last_row_and_column(path, height, width):
    clip = np.full((2, height, width, 3), (70, 120, 230), np.uint8)
    write_clip(path, clip, 12)
    back = read_clip(path)[0]
    assert back.shape == (2, height + height % 2, width + width % 2, 3)
    assert np.abs(back.astype(int) - clip[0, 0, 0]).max() <= 4


def test_floats_arrays_and_tensors_mean_the_same(path):
    clip = painted(2, 32, 32)
    results = []
    for frames in (clip, clip / 255.0, torch.from_numpy(clip), torch.from_numpy(clip) / 255, iter(list(clip))):
        write_clip(path, frames, 12)
        results.append(path.read_bytes())
    assert all(data == results[0] for data in results)
    rgba = np.concatenate([clip, np.full((2, 32, 32, 1), 7, np.uint8)], axis=3)
    write_clip(path, rgba, 12)
    assert path.read_bytes() == results[0], "alpha is dropped"
    expected = read_clip(path)[0].astype(int)
    write_clip(path, (torch.from_numpy(clip) / 255).bfloat16(), 12)
    assert np.abs(read_clip(path)[0] - expected).max() <= 6


def test_values_outside_the_range_are_clipped(path):
    frame = np.full((1, 16, 16, 3), 1.7, np.float32)
    frame[:, :8] = -0.4
    write_clip(path, frame, 12, crf=1)
    back = read_clip(path)[0]
    assert back[0, :4].max() <= 3 and back[0, 12:].min() >= 252


def test_metadata_stands_in_front_as_the_page_wants_it(path):
    """moov before mdat, and in it udta/meta with keys and ilst: what ComfyUI's page looks for."""
    workflow = {"nodes": [{"id": 1, "title": '日本 {"quoted"} \\ '}], "version": 0.4, "empty": [float("nan")]}
    prompt = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 2**53, "cfg": float("inf")}, "is_changed": float("nan")}
    }
    write_clip(path, painted(30), 12, metadata={"workflow": workflow, "prompt": prompt, "note": "plain text"})
    data = path.read_bytes()
    names = boxes(data)
    assert names[0] == "ftyp" and names.index("moov") < names.index("mdat")
    start = data.index(b"moov") - 4
    moov = data[start : start + int.from_bytes(data[start : start + 4], "big")]
    assert boxes(moov[8:])[-1] == "udta"
    udta = moov[moov.index(b"udta") :]
    assert udta.index(b"keys") < udta.index(b"ilst")
    assert b"mdtaworkflow" in udta and b"mdtaprompt" in udta
    text = udta[udta.index(b'{"nodes"') : udta.index(b'"empty"')]
    assert text.isascii() and b"NaN" not in udta and b"Infinity" not in udta

    back = probe_clip(path).metadata
    assert back["workflow"]["nodes"] == workflow["nodes"] and back["workflow"]["empty"] == [None]
    assert back["prompt"]["3"]["inputs"] == {"seed": 2**53, "cfg": None}
    assert back["note"] == "plain text"


def test_no_metadata_no_tags(path):
    write_clip(path, painted(1), 12)
    assert not {"workflow", "prompt"} & set(probe_clip(path).metadata)


def test_progress_counts_frames(path):
    seen = []
    write_clip(path, painted(5), 12, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]


def bad_frame(kind):
    frame = painted(1)[0].astype(np.float32) / 255
    if kind == "nan":
        frame[0, 0, 0] = np.nan
        return frame
    return {"size": frame[:-2], "grey": frame[..., :1], "int": frame.astype(np.int64), "empty": frame[:0]}[kind]


@pytest.mark.parametrize(
    "kind, words", [("nan", "NaN"), ("size", "one size"), ("grey", "shape"), ("int", "type int64"), ("empty", "shape")]
)
def test_bad_frames_are_named_and_leave_nothing(path, kind, words):
    with pytest.raises(ValueError, match=f"frame 2 .*{words}"):
        write_clip(path, [*painted(2), bad_frame(kind)], 12)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("height, width", [(2, 16386), (16386, 2)])
def test_frames_too_large_for_h264_are_named(path, height, width):
    with pytest.raises(ValueError, match=rf"frames of {width}x{height} px are too large for H\.264.*16384.*scale"):
        write_clip(path, np.zeros((1, height, width, 3), np.uint8), 12)
    assert not list(path.parent.iterdir())


def test_the_largest_frames(path):
    assert write_clip(path, np.zeros((1, 2, 16384, 3), np.uint8), 12) == 1


def test_no_frames(path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_clip(path, [], 12)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("crf", [-1, 52, float("nan")])
def test_bad_crf(path, crf):
    with pytest.raises(ValueError, match="crf"):
        write_clip(path, painted(1), 12, crf=crf)


def test_crf_weighs_size_against_fidelity(path):
    sizes, errors = [], []
    for crf in (4, 16, 40):
        write_clip(path, painted(), 12, crf=crf)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(read_clip(path)[0].astype(int) - painted()).mean())
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)


def test_other_containers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.mp4"):
        write_clip(tmp_path / "clip.avi", painted(1), 12)


class Stop(BaseException):
    """Like ComfyUI's interrupt, which is no Exception on newer versions."""


@pytest.mark.parametrize("after", [1, 3])
def test_interrupt_leaves_the_old_clip_and_no_part(path, after):
    write_clip(path, painted(2), 12)
    before = path.read_bytes()

    def stop(done):
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        write_clip(path, painted(6), 12, progress=stop)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_killed_process_leaves_no_clip_and_the_next_run_succeeds(path):
    program = f"""
import os
import numpy as np
from sdxl_anime_video.media.writer import write_clip
write_clip({str(path)!r}, np.zeros((9, 16, 16, 3), np.uint8), 12, progress=lambda done: done == 5 and os._exit(9))
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=path.parent, env=os.environ).returncode == 9
    assert not path.exists()
    write_clip(path, painted(2), 12)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError):
        write_clip(tmp_path / "absent" / "clip.mp4", painted(1), 12)


def test_same_input_same_file(path):
    write_clip(path, painted(), 12, metadata={"a": [1]})
    first = path.read_bytes()
    write_clip(path, painted(), 12, metadata={"a": [1]})
    assert path.read_bytes() == first


def test_memory_is_bounded_by_a_frame_not_the_clip(path):
    """300 frames of 48 KiB each, made and taken one by one; the whole clip would be 14 MiB."""
    tracemalloc.start()
    try:
        write_clip(path, (np.full((128, 128, 3), index % 256, np.uint8) for index in range(300)), 12)
        assert sum(1 for _ in iter_clip(path)) == 300
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_json_round_trip_of_large_graphs(path):
    graph = {"nodes": [{"id": i, "widgets_values": ["x" * 200, i / 7]} for i in range(3000)]}
    assert len(json.dumps(graph)) > 600_000
    write_clip(path, painted(1, 16, 16), 12, metadata={"workflow": graph})
    assert probe_clip(path).metadata["workflow"] == graph


def test_a_file_has_the_mode_of_any_other(tmp_path):
    """safetensors makes files that nobody but their owner can read."""
    (tmp_path / "other").touch()
    with whole_or_nothing(tmp_path / "weights.safetensors") as part:
        save_file({"a": torch.zeros(1)}, part)
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


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
