"""Frames on a grid in time, clips out of scenes, sizes, captions: what `prepare` does, step by step."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from sdxl_anime_video.training.clips.source import DataError
from sdxl_anime_video.training.prepare.options import PrepareConfig
from sdxl_anime_video.training.prepare.pieces import Picture, buckets, cut, fit, on_grid, ssim
from sdxl_anime_video.training.prepare.reading.captions import apply_manifest
from sdxl_anime_video.training.prepare.reading.frames import given_scenes, scenes, shown_frames, size_of
from sdxl_anime_video.training.prepare.reading.sources import Source, find_sources


def config(**fields) -> PrepareConfig:
    return PrepareConfig(videos=["a"], output="b", checkpoint="toon", **fields)


def write_numbered(path, times, base=1000, aspect=1):
    """A video whose frame number n is a grey of 8 n, at the given times in 1/base seconds."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "1", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, base)
        stream.codec_context.sample_aspect_ratio = aspect
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return Source(path.name, "video", [str(path)])


def numbers(source, **fields) -> list[int]:
    """Which frames of a numbered video are chosen."""
    settings = config(cuts="none", **fields)
    shown = scenes(shown_frames(source, settings.fps), settings)
    grid = on_grid(shown, settings.fps, fit(*size_of(source), 64, 16))
    return [round(float(picture.pixels.mean()) / 8) for picture in grid]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])  # Matroska rounds time stamps to milliseconds
def test_every_second_frame_of_24_a_second(tmp_path, suffix):
    source = write_numbered(tmp_path / f"a.{suffix}", [round(n * 1000 / 24) for n in range(30)])
    assert numbers(source) == list(range(0, 30, 2))


def test_frames_are_chosen_by_their_time_not_their_number(tmp_path):
    times = [0, 83, 167, 500, 583, 600, 620, 667]  # a drawing is held for 4/12 s; three come in 1/12 s
    assert numbers(write_numbered(tmp_path / "a.mkv", times)) == [0, 1, 2, 2, 2, 2, 3, 4, 7]


def test_slower_videos_repeat_frames_and_others_keep_their_speed(tmp_path):
    eight = numbers(write_numbered(tmp_path / "8.mkv", [n * 125 for n in range(8)]))
    assert eight == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    twentyfive = numbers(write_numbered(tmp_path / "25.mkv", [n * 40 for n in range(25)]))
    assert twentyfive == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 23]  # the last is 3 ms early, as GIF might round it


def test_a_gap_in_time_begins_a_scene_and_makes_no_thousands_of_frames(tmp_path):
    source = write_numbered(tmp_path / "a.mkv", [0, 83, 167, 90_000_000, 90_000_083])
    shown = list(scenes(shown_frames(source, 12), config(cuts="none")))
    assert [scene for scene, _ in shown] == [0, 0, 0, 1, 1]
    assert shown[2][1].end - shown[2][1].start == 4


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    assert size_of(write_numbered(tmp_path / "a.mp4", range(3), 24, Fraction(3, 2))) == (64, 96)


@pytest.mark.parametrize(("longest", "shortest", "overlap"), [(24, 8, 0), (8, 8, 0), (16, 8, 8), (8, 2, 5), (9, 4, 1)])
def test_clips_lose_no_frame_but_a_rest_too_short(longest, shortest, overlap):
    settings = config(frames=longest, min_frames=shortest, overlap=overlap)
    nothing = np.zeros(0)
    for count in range(1, 4 * longest):
        clips = list(cut((Picture(0, float(i), nothing, nothing) for i in range(count)), settings))
        times = [[int(picture.time) for picture in clip] for clip in clips]
        assert sorted(set(itertools.chain(*times))) == list(range(count))
        assert all(clip == list(range(clip[0], clip[0] + len(clip))) for clip in times)
        assert all(len(clip) <= longest for clip in times)
        assert all(len(clip) >= shortest for clip in times[:-1])
        if longest >= 2 * shortest and not overlap and count >= shortest:
            assert len(times[-1]) >= shortest
        for first, second in itertools.pairwise(times):
            if len(second) >= shortest:
                assert first[-1] + 1 - second[0] == overlap


def test_clips_stay_in_their_scene():
    nothing = np.zeros(0)
    pictures = [Picture(i // 10, float(i), nothing, nothing) for i in range(30)]
    assert [(clip[0].scene, len(clip)) for clip in cut(pictures, config(frames=24))] == [(0, 10), (1, 10), (2, 10)]


def test_similarity_is_that_of_its_paper():
    x, y = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    assert ssim(x, x) == pytest.approx(1)
    assert ssim(np.full((64, 64), 100, np.uint8), np.full((64, 64), 120, np.uint8)) == pytest.approx(
        (2 * 100 * 120 + 6.5025) / (100**2 + 120**2 + 6.5025)
    )
    a, b = x[:7, :7].astype(float), y[:7, :7].astype(float)
    c1, c2, cov = 6.5025, 58.5225, np.cov(a.ravel(), b.ravel())
    by_hand = (2 * a.mean() * b.mean() + c1) * (2 * cov[0, 1] + c2)
    by_hand /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)
    assert ssim(x[:7, :7], y[:7, :7]) == pytest.approx(by_hand)


def test_sizes_are_of_one_area_and_near_the_shape():
    assert fit(1080, 1920, 768, 32).target == (576, 1024)
    assert fit(480, 640, 1024, 32).target == (896, 1152)
    assert fit(256, 256, 512, 32).target == (512, 512)
    assert fit(720, 1280, 128, 16).target == (96, 160)
    for resolution in (512, 768, 1024):
        for height, width in buckets(resolution, 64):
            assert height % 64 == width % 64 == 0 and 0.75 * resolution**2 < height * width <= resolution**2
    into = fit(720, 1280, 768, 32)
    assert (into.scaled, into.crop) == ((576, 1024), (0, 0))
    into = fit(1080, 1440, 768, 32)
    assert into.target == (640, 896) and into.scaled == (672, 896) and into.crop == (16, 0)


def test_sources_are_found_by_name(tmp_path):
    for name in ("b.mp4", "sub/a.MKV", "c.npz", "seq/f_002.png", "seq/f_010.png", "b.jpg", "7.jpg", "x.zip", ".h.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found, passed_over = find_sources([tmp_path])
    assert [(source.name, source.kind, source.numbers) for source in found] == [
        ("b.mp4", "video", []),
        ("c.npz", "npz", []),
        ("seq/f_", "pictures", [2, 10]),
        ("sub/a.MKV", "video", []),
        (tmp_path.name, "pictures", [7]),
    ]
    assert passed_over == {".zip": 1}
    with pytest.raises(DataError, match=r"b\.mp4 is there twice"):
        find_sources([tmp_path / "b.mp4", tmp_path / "b.mp4"])


def sources() -> list[Source]:
    return [Source(f"clips/{name}.mp4", "video", [f"{name}.mp4"]) for name in ("17", "18", "19")]


def test_a_manifest_as_sakuga_has_it_gives_scenes_and_captions(tmp_path):
    table = {
        "identifier": ["17:2", "17:1", "18:1", "404:1"],
        "url_link": ["https://example.org/17.mp4"] * 4,
        "scene_start_time": ["00:00:01.500", "00:00:00.000", None, None],
        "scene_end_time": ["00:01:02.000", "00:00:01.500", None, None],
        "fps": [24.0] * 4,
        "text_description": ["second", "first", "whole", "nowhere"],
    }
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "sakuga.parquet")
    found = sources()
    assert apply_manifest(tmp_path / "sakuga.parquet", found) == 1
    assert (found[0].scenes, found[0].captions) == ([(0, 1.5), (1.5, 62)], ["first", "second"])
    assert (found[1].scenes, found[1].captions) == ([], ["whole"])
    assert (found[2].scenes, found[2].captions) == ([], [])


def test_a_csv_manifest(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('file,caption,start,end\nclips/17.mp4,"a, b",2,3.5\n18.mp4,007,,\n')
    found = sources()
    assert apply_manifest(path, found) == 0
    assert (found[0].scenes, found[0].captions, found[1].captions) == ([(2, 3.5)], ["a, b"], ["007"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,caption\na,b\n", "no column for the file; name it one of file, path"),
        ("file,words\na,b\n", "no column for the caption"),
        ("file,caption,start,end\n17,a,3,2\n", "row 2: a scene from 3 to 2 s"),
        ("file,caption,start,end\n17,a,0,soon\n", "row 2: 'soon' is no time"),
        ("file,caption,start,end\n17,a,0,3\n17,b,2,4\n", "scene at 2 s begins before"),
        ("file,caption\n17,a\n17,b\n", "row 3: 17 has a second caption"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        apply_manifest(tmp_path / "list.csv", sources())


def test_given_scenes_leave_out_what_lies_between(tmp_path):
    source = write_numbered(tmp_path / "a.mkv", [round(n * 1000 / 12) for n in range(30)])
    kept = list(given_scenes(shown_frames(source, 12), [(0.25, 0.5), (1.0, 1.5)]))
    assert [scene for scene, _ in kept] == [0] * 3 + [1] * 6
    assert kept[-1][1].end == 1.5
