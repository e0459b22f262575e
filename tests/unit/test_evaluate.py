"""The toon judge on clips whose verdict is known."""

import signal

import numpy as np
import pytest

from sdxl_anime_video.benchmarks.judging import evaluate
from sdxl_anime_video.benchmarks.judging import long_clips as evaluate_long
from sdxl_anime_video.benchmarks.judging.arms import MOST_PAIRS, held_out_pairs
from sdxl_anime_video.benchmarks.judging.evaluate import Arm, folder_pairs
from sdxl_anime_video.demo.judge import COLUMNS, Judge, mean_scores
from sdxl_anime_video.demo.painter import ACTIONS, HELD_OUT, paint_clip
from sdxl_anime_video.temporal.measure.figures import markdown_table


@pytest.fixture(scope="module")
def running():
    caption = next(caption for caption in HELD_OUT if caption.endswith(", run"))
    return Judge(caption), paint_clip(caption, 16, 128, seed=1).frames / np.float32(255)


def test_what_the_painter_paints_has_its_own_amplitude(running):
    judge, clip = running
    scores = judge.scores(clip)
    assert scores["limb_ratio"] == pytest.approx(1, abs=0.15)
    assert scores["centroid_ratio"] == pytest.approx(1, abs=0.3)
    assert scores["motion_ratio"] == pytest.approx(1, abs=0.2)
    assert scores["limbs_seen"] > 0.8
    assert set(COLUMNS) <= set(scores)


def test_a_still_picture_wins_flicker_and_loses_every_path(running):
    judge, clip = running
    still = judge.scores(np.repeat(clip[:1], 16, 0))
    assert still["flicker"] == still["identity_drift"] == 0
    assert still["limb_ratio"] == pytest.approx(0, abs=0.01)
    assert still["motion_ratio"] < 0.02


def test_frames_in_random_order_keep_the_amplitude_and_lose_the_path(running):
    judge, clip = running
    scores, shuffled = judge.scores(clip), judge.scores(clip[np.random.default_rng(0).permutation(16)])
    assert shuffled["limb_ratio"] == pytest.approx(scores["limb_ratio"], rel=0.01)
    assert shuffled["jerkiness"] > 2 * scores["jerkiness"]
    assert shuffled["coverage"] < scores["coverage"] - 0.05  # flow cannot follow it


def test_another_hair_colour_half_way_is_identity_drift(running):
    judge, clip = running
    changed = clip.copy()
    hair = np.array(judge.identity["hair"]) / 255
    changed[8:][np.linalg.norm(changed[8:] - hair, axis=-1) < 0.2] = 1 - hair
    assert judge.scores(changed)["identity_drift"] > 2 * judge.scores(clip)["identity_drift"]


def test_limbs_that_the_painter_keeps_still_are_not_judged():
    caption = next(caption for caption in HELD_OUT if caption.endswith(", turn"))
    scores = Judge(caption).scores(paint_clip(caption, 16, 128, seed=1).frames)
    assert np.isnan(scores["limb_ratio"])
    assert mean_scores([scores, {**scores, "limb_ratio": 2.0}])["limb_ratio"] == 2.0


def test_pairs_are_held_out_and_balanced():
    pairs = held_out_pairs(24)
    assert len(set(pairs)) == 24
    assert all(caption in HELD_OUT for caption, _ in pairs)
    assert [sum(caption.endswith(action) for caption, _ in pairs) for action in ACTIONS] == [4] * 6


def test_arms():
    assert Arm.parse("independent") == Arm()
    assert Arm.parse("adapter") == Arm(adapter=True)
    assert Arm.parse("shared 0.9") == Arm(False, "shared", 0.9)
    assert Arm.parse("adapter + progressive 0.5") == Arm(True, "progressive", 0.5)
    for wrong in ("nothing", "base + shared 0.9", "adapter + shared", "realistic"):
        with pytest.raises(ValueError, match="is none of: real, real decoded"):
            Arm.parse(wrong)


WRONG_NUMBERS = {
    "--pairs": ["0", "-1", "100000", "many"],
    "--frames": ["1"],
    "--steps": ["0"],
    "--cfg": ["nan"],
    "--seed": ["-1"],
}


@pytest.mark.parametrize(
    ("program", "option", "value"),
    [(program, o, v) for program in (evaluate, evaluate_long) for o, some in WRONG_NUMBERS.items() for v in some]
    + [
        (evaluate, "--shown", "0"),
        (evaluate, "--threads", "0"),
        (evaluate, "--size", "0"),
        (evaluate, "--size", "100"),
    ],
)
def test_wrong_numbers_are_refused_up_front(program, option, value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(["--output", str(tmp_path / "out"), option, value])
    error = capsys.readouterr().err
    assert f"argument {option}: " in error and value in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("program", "arm", "message"),
    [
        (evaluate, "realistic", "arm 'realistic' is none of"),
        (evaluate, "shared 2", "arm 'shared 2': correlation is 2.0; it must lie between 0"),
        (evaluate, "shared much", "arm 'shared much': could not convert"),
        (evaluate, "blue 0.5", "arm 'blue 0.5': mode is 'blue'"),
        (evaluate, "adapter", "arm 'adapter' needs an adapter; give its file with --adapter"),
        (evaluate, "adapter + shared 0.5", "arm 'adapter + shared 0.5' needs an adapter"),
        (evaluate_long, "realistic", "arm 'realistic': 'realistic' is no overlap"),
        (evaluate_long, "overlap 16", "arm 'overlap 16': '16' is no whole number from 0 to 15"),
        (evaluate_long, "overlap", "arm 'overlap': '' is no whole number"),
        (evaluate_long, "last_frame 2", "'2' is no number from 0.01 to 1"),
        (evaluate_long, "overlap 4 + shared 2", "'2' is no number from 0 to 1"),
        (evaluate_long, "overlap 4 + anchor -1", "'-1' is no number from 0 to 1"),
    ],
)
def test_wrong_arms_are_refused_up_front(program, arm, message, tmp_path, capsys):
    assert program.main(["--output", str(tmp_path / "out"), "--arms", "real", arm]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_many_pairs_as_are_allowed_can_be_had():
    assert len(set(held_out_pairs(MOST_PAIRS))) == MOST_PAIRS


def test_an_output_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert evaluate.main(["--output", str(tmp_path / "out"), "--arms", "real", "--pairs", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_comfyui_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert evaluate_long.main(["--output", str(tmp_path / "out"), "--pairs", "1"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "error: COMFYUI_DIR=" in capsys.readouterr().err


@pytest.mark.slow
def test_painted_arms_are_measured_without_an_adapter(tmp_path, capsys):
    options = ["--arms", "real", "independent", "--pairs", "2", "--shown", "1", "--frames", "3", "--steps", "1"]
    assert evaluate.main(["--output", str(tmp_path), "--size", "32", *options]) == 0
    assert "| independent |" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "sheet.png", "table.md"]


def test_a_folder_without_painted_clips_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="paint_clips"):
        folder_pairs(tmp_path, 16)


def test_a_folder_of_longer_clips_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text('{"caption": "c", "seed": 1, "pose": [[], []]}', encoding="utf-8")
    assert folder_pairs(tmp_path, 2) == [("c", 1)]
    (tmp_path / "b.json").write_text('{"caption": "of another hand"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.json is not by paint_clips"):
        folder_pairs(tmp_path, 2)
    (tmp_path / "b.json").unlink()
    with pytest.raises(ValueError, match="has 2 frames, not 16"):
        folder_pairs(tmp_path, 16)


def test_the_painters_flow_sees_what_estimated_flow_hides(running):
    judge, clip = running
    judge = Judge(judge.caption, truth=paint_clip(judge.caption, 16, 128, seed=1))
    shuffled, own = judge.scores(clip[np.random.default_rng(0).permutation(16)]), judge.scores(clip)
    assert own["limb_ratio"] == pytest.approx(1, abs=1e-6)  # the truth is itself the reference
    assert own["true_warp_error"] < 0.01
    assert shuffled["true_warp_error"] > 10 * own["true_warp_error"]
    assert shuffled["warp_error"] < 5 * own["warp_error"]


def test_table(running):
    judge, clip = running
    text = markdown_table({"real": judge.scores(clip)}, COLUMNS)
    assert text.count("\n") == 3
    assert "| real |" in text


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("overlap 8", {"chain": ("overlap", 8)}),
        ("last_frame 0.4 + shared 0.5", {"chain": ("last_frame", 4), "noise": ("shared", 0.5)}),
        ("windows looped + anchor 0.3", {"windows": "looped", "anchor": 0.3}),
    ],
)
def test_arms_of_long_clips(arm, expected):
    found = evaluate_long.parse_arm(arm)
    short = {
        "chain": lambda s: (s["carry"], s["overlap"]),
        "noise": lambda s: (s["mode"], s["correlation"]),
        "windows": lambda s: s["schedule"],
        "anchor": lambda s: s["strength"],
    }
    assert {name: short[name](settings) for name, settings in found.items()} == expected


@pytest.mark.parametrize(
    "arm", ["", "overlap", "windows square", "shared 0.5", "overlap 4 + windows static", "anchor 1"]
)
def test_wrong_arms_of_long_clips(arm):
    with pytest.raises(ValueError):
        evaluate_long.parse_arm(arm)


def test_borders_are_where_segments_begin():
    assert evaluate_long.borders("overlap 4", 40) == [16, 28]
    assert evaluate_long.borders("last_frame 0.5", 40) == [16, 32]
    assert evaluate_long.borders("windows uniform", 40) == evaluate_long.borders("real", 40) == [16, 28]
