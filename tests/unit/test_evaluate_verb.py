"""`sdxl-anime-video evaluate` on clips whose figures are known."""

import json

import numpy as np
import pytest

from sdxl_anime_video import __main__ as command
from sdxl_anime_video.demo.painter import HELD_OUT, paint_clip
from sdxl_anime_video.media.reader import read_clip
from sdxl_anime_video.media.writer import write_clip
from sdxl_anime_video.rendering.evaluate import COLUMNS, measure
from sdxl_anime_video.temporal.measure import metrics
from sdxl_anime_video.temporal.measure.drawings import new_drawings


@pytest.fixture(scope="module")
def painted():
    caption = next(caption for caption in HELD_OUT if caption.endswith(", run"))
    return paint_clip(caption, 8, 128, seed=1).frames


def saved(path, frames, fps=12, crf=10):
    write_clip(path, frames, fps, crf)
    return path


def evaluate(arguments, capsys):
    status = command.main(["evaluate", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_figures_are_those_of_the_whole_clip(painted, tmp_path):
    path = saved(tmp_path / "run.mp4", painted)
    found, frames = measure(path), read_clip(path)[0]
    error, coverage = metrics.warp_error(frames)
    assert found["flicker"] == pytest.approx(metrics.flicker(frames), rel=1e-5)
    assert (found["warp_error"], found["coverage"]) == pytest.approx((error, coverage), rel=1e-5)
    assert found["motion"] == pytest.approx(metrics.motion(frames), rel=1e-5)
    assert found["identity_drift"] == pytest.approx(metrics.identity_drift(frames), rel=1e-5)
    assert (found["frames"], found["fps"], found["width"], found["height"]) == (8, 12, 128, 128)


@pytest.mark.parametrize("hold, share", [(1, 0.0), (2, 4 / 7), (4, 6 / 7), (8, 1.0)])
@pytest.mark.parametrize("grain", [0, 4])
def test_drawings_on_twos_are_repeated(painted, tmp_path, hold, share, grain):
    """Also through a codec, and under grain of 4 levels that is new in every frame."""
    noise = np.random.default_rng(0).normal(0, grain, painted.shape)
    held = np.clip(painted[np.arange(8) // hold * hold] + noise, 0, 255).astype(np.uint8)
    assert sum(new_drawings(held)) - 1 == pytest.approx(7 * (1 - share))
    assert measure(saved(tmp_path / "held.mp4", held, crf=20))["repeated"] == pytest.approx(share)


def test_a_blink_is_another_drawing():
    frames = np.full((2, 768, 768, 3), 200, np.uint8)
    frames[1, 300:308, 300:324] = 40
    assert list(new_drawings(frames)) == [True, True]


def test_a_table_and_a_file(painted, tmp_path, capsys):
    clips = [saved(tmp_path / "run.mp4", painted), saved(tmp_path / "still.mp4", painted[:1].repeat(4, 0))]
    status, table, _ = evaluate([*clips, "--json", tmp_path / "figures.json"], capsys)
    assert status == 0
    head, _, first, second = table.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["", *COLUMNS]
    assert first.startswith(f"| {clips[0]} | 8 |") and second.startswith(f"| {clips[1]} | 4 |")
    written = json.loads((tmp_path / "figures.json").read_text())["clips"]
    assert list(written) == [str(path) for path in clips]
    assert written[str(clips[1])]["repeated"] == 1
    assert not list(tmp_path.glob(".*"))


def test_clips_that_cannot_be_measured_are_named_and_the_others_count(painted, tmp_path, capsys):
    good, one = saved(tmp_path / "good.mp4", painted[:3]), saved(tmp_path / "one.mp4", painted[:1])
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:-200])
    status, table, errors = evaluate([cut, good, one, tmp_path / "none.mp4", tmp_path], capsys)
    assert status == 1
    assert len(table.splitlines()) == 3 and str(good) in table
    lines = [line for line in errors.splitlines() if line.startswith("error: evaluate: ")]
    assert len(lines) == 4
    for line, words in zip(
        lines,
        ("cut.mp4 is cut off", "one.mp4 has less than 2 frames", "does not exist", "name the clips in it"),
        strict=True,
    ):
        assert words in line


def test_a_place_that_is_not_there_is_named_before_any_work(painted, tmp_path, capsys):
    clip = saved(tmp_path / "run.mp4", painted[:2])
    status, table, errors = evaluate([clip, "--json", tmp_path / "no" / "figures.json"], capsys)
    assert status == 1 and not table and "--json: the folder" in errors
    status, table, errors = evaluate([clip, "--json", tmp_path], capsys)
    assert status == 1 and not table and f"--json: {tmp_path} is a folder" in errors
    with pytest.raises(SystemExit) as caught:
        command.main(["evaluate"])
    assert caught.value.code == 2
