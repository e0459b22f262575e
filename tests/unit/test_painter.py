"""The painter's truth against its pictures."""

import cv2
import numpy as np
import pytest

from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.demo.painter import ACTIONS, BACKGROUNDS, HELD_OUT, LIMB_COLOURS, TRAIN, Spec, paint_clip
from sdxl_anime_video.demo.painter.world import CHARACTERS, CLOTHES, EYE, EYE_LIGHT, HAIR, MOUTH, OUTLINE, SKIN

CAPTIONS = [
    "girl, blue hair, red dress, sunset, run",
    "boy, red hair, white shirt, night, jump",
    "cat, purple hair, black coat, meadow, wave",
    "girl, green hair, blue dress, snow, turn",
    "boy, blonde hair, red shirt, meadow, pan",
    "cat, white hair, blue coat, sunset, zoom",
]


@pytest.fixture(scope="module", params=CAPTIONS, ids=ACTIONS)
def clip(request):
    return paint_clip(request.param, frames=16, size=128, seed=5)


def test_same_seed_same_clip():
    one, two = (paint_clip(CAPTIONS[0], frames=3, seed=7) for _ in range(2))
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.flow, two.flow)
    assert not np.array_equal(one.frames, paint_clip(CAPTIONS[0], frames=3, seed=8).frames)


def test_shapes(clip):
    assert clip.frames.shape == (16, 128, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.flow.shape == (15, 128, 128, 2) and clip.flow.dtype == np.float32
    assert clip.pose.shape == (16, len(clip.joints), 2) and clip.centroid.shape == (16, 2)
    assert clip.outline.shape == clip.depth.shape == clip.part.shape == (16, 128, 128)
    assert clip.depth.min() >= 0 and clip.depth.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (200, 120)])
def test_any_size_and_length(size):
    clip = paint_clip(CAPTIONS[0], frames=1, size=size, seed=1)
    assert clip.frames.shape == (1, *size, 3) and clip.flow.shape == (0, *size, 2)
    assert clip.character.mean() > 0.15


def test_fps_changes_speed_only():
    slow, fast = paint_clip(CAPTIONS[0], 5, seed=2, fps=24), paint_clip(CAPTIONS[0], 3, seed=2, fps=12)
    assert np.array_equal(slow.frames[::2], fast.frames)


def test_figure_loops(clip):
    longer = paint_clip(clip.caption, frames=17, size=128, seed=5)
    assert np.abs(longer.pose[16] - longer.pose[0]).max() < 1e-3
    assert np.abs(longer.frames[16].astype(int) - longer.frames[0]).mean() < 0.5


def test_flow_carries_each_frame_to_the_next(clip):
    y, x = np.mgrid[:128, :128].astype(np.float32)
    moved = 0.0
    for t in range(15):
        there_x, there_y = x + clip.flow[t, ..., 0], y + clip.flow[t, ..., 1]
        warped = cv2.remap(clip.frames[t + 1], there_x, there_y, cv2.INTER_LINEAR)
        part = cv2.remap(clip.part[t + 1], there_x, there_y, cv2.INTER_NEAREST, borderValue=255)
        flat = (cv2.erode(clip.part[t], np.ones((3, 3))) == clip.part[t]) & (
            cv2.dilate(clip.part[t], np.ones((3, 3))) == clip.part[t]
        )
        seen = flat & (part == clip.part[t])
        assert seen.mean() > 0.5
        error = np.abs(warped.astype(float) - clip.frames[t])[seen].mean()
        still = np.abs(clip.frames[t + 1].astype(float) - clip.frames[t])[seen].mean()
        moved += still
        assert error < 2.5, f"frame {t}: {error:.2f} of 255 (not warped: {still:.2f})"
    assert moved > 0


def test_flow_is_better_than_none():
    clip = paint_clip(CAPTIONS[4], frames=2, seed=1)
    y, x = np.mgrid[:128, :128].astype(np.float32)
    warped = cv2.remap(clip.frames[1], x + clip.flow[0, ..., 0], y + clip.flow[0, ..., 1], cv2.INTER_LINEAR)
    figure = clip.character[0]
    error = np.abs(warped.astype(float) - clip.frames[0])[figure].mean()
    assert error < 0.5 * np.abs(clip.frames[1].astype(float) - clip.frames[0])[figure].mean()


def test_limbs_are_where_their_colour_is(clip):
    """A limb joint and the mean of its colour's pixels agree wherever the limb is not mostly hidden."""
    found = 0
    y, x = np.mgrid[:128, :128] + 0.5
    for name, colour in LIMB_COLOURS.items():
        for t, frame in enumerate(clip.frames):
            mask = np.abs(frame.astype(int) - colour).sum(-1) < 60
            if mask.sum() < 70:
                continue
            centre = np.array([x[mask].mean(), y[mask].mean()])
            assert np.hypot(*(centre - clip.joint(name)[t])) < 4.5
            found += 1
    assert found > 30


def test_centroid_and_outline_agree_with_pixels(clip):
    y, x = np.mgrid[:128, :128] + 0.5
    figure = clip.character
    for t in range(0, 16, 5):
        assert np.allclose(clip.centroid[t], [x[figure[t]].mean(), y[figure[t]].mean()], atol=1e-3)
        dark = np.abs(clip.frames[t].astype(int) - OUTLINE).sum(-1) < 20
        assert dark[clip.outline[t] == 255].all()
    assert 0.3 < figure.mean() / 0.4 < 2.0


def test_every_action_moves(clip):
    if clip.caption.endswith("turn"):
        assert np.abs(np.diff(clip.frames.astype(int), axis=0)).mean() > 0.5
    else:
        assert np.ptp(clip.pose, axis=0).max() > 8


def test_limb_colours_are_used_nowhere_else():
    others = [SKIN, EYE, EYE_LIGHT, MOUTH, OUTLINE, *HAIR.values(), *CLOTHES.values()]
    others += [colour for scene in BACKGROUNDS.values() for colour in scene]
    limbs = list(LIMB_COLOURS.values())
    for i, colour in enumerate(limbs):
        for other in others + limbs[:i]:
            assert np.hypot.reduce(np.subtract(colour, other, dtype=float)) > 80


def test_captions_round_trip_and_sets_are_apart():
    assert not set(TRAIN) & set(HELD_OUT)
    assert len(TRAIN) + len(HELD_OUT) == len(CHARACTERS) * len(HAIR) * len(CLOTHES) * len(BACKGROUNDS) * len(ACTIONS)
    assert all(Spec.parse(caption).caption == caption for caption in (*TRAIN, *HELD_OUT))
    triples = {(s.hair, s.background, s.action) for s in map(Spec.parse, TRAIN)}
    assert not triples & {(s.hair, s.background, s.action) for s in map(Spec.parse, HELD_OUT)}
    for attribute in ("character", "hair", "clothes", "background", "action"):
        seen = [{getattr(Spec.parse(caption), attribute) for caption in some} for some in (TRAIN, HELD_OUT)]
        assert seen[0] == seen[1]


def test_training_frames_are_never_held_out(tmp_path):
    from sdxl_anime_video.benchmarks.making.data import painted_frames

    frames, importance, captions = painted_frames(8, 3, tmp_path, size=32)
    assert frames.shape == (8, 32, 32, 3) and importance.max() == 2
    assert not set(captions) & set(HELD_OUT)


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("girl, pink hair, red dress, sunset, run", "pink"),
        ("a girl runs", "cannot read"),
        ("girl, blue hair, red dress, sunset, swim", "swim"),
    ],
)
def test_unknown_captions_say_what_is_wrong(caption, says):
    with pytest.raises(ValueError, match=says):
        paint_clip(caption)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            ("--" + name, value)
            for name in ("count", "frames", "size", "scale", "processes")
            for value in ("0", "-1", "x")
        ),
        *(("--fps", value) for value in ("0", "-12", "nan", "inf", "1e300", "1e-9")),
        ("--seed", "-1"),
    ],
)
def test_wrong_numbers_for_clips_are_refused_before_anything_is_written(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit):
        paint_clips.main([str(tmp_path / "out"), "--count", "1", "--frames", "2", "--size", "32", option, value])
    assert f"argument {option}: {value!r} is no " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_clips_are_not_written_into_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert paint_clips.main([str(tmp_path / "out"), "--count", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot write clips to {tmp_path / 'out'}") and error.count("\n") == 1


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="positive"):
        paint_clip(CAPTIONS[0], frames=0)


def test_visible_is_false_where_the_next_frame_shows_another_part():
    clip = paint_clip("girl, blue hair, red dress, sunset, wave", 4, 128, seed=3)
    assert clip.visible.shape == (3, 128, 128)
    assert 0.9 < clip.visible.mean() < 1
    still = np.linalg.norm(clip.flow, axis=-1) < 1e-6
    assert (clip.visible[still] == (clip.part[1:] == clip.part[:-1])[still]).all()
