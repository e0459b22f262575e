"""Every metric on clips whose answer is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sdxl_anime_video.temporal.measure import metrics, paths
from sdxl_anime_video.temporal.measure.drawings import new_drawings
from sdxl_anime_video.temporal.measure.figures import figures

SIZE = 96


def texture(size=SIZE, seed=0):
    """A smooth random colour picture `[H, W, 3]` that flow can follow."""
    import cv2

    noise = np.random.default_rng(seed).random((size // 6, size // 6, 3)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def translating(frames=6, dx=2, dy=1):
    """A window sliding over a larger texture: the content moves by (-dx, -dy) pixels a frame."""
    big = texture(SIZE + 6 * 10)
    return np.stack([big[t * dy : t * dy + SIZE, t * dx : t * dx + SIZE] for t in range(frames)])


def independent(frames=6):
    return np.random.default_rng(1).random((frames, SIZE, SIZE, 3)).astype(np.float32)


def blobs(xs, ys, colour=(1, 0, 0), size=SIZE, radius=5):
    """A disc at each (x, y), one frame each, on grey."""
    grid_y, grid_x = np.mgrid[:size, :size]
    clip = np.full((len(xs), size, size, 3), 0.5, np.float32)
    for frame, x, y in zip(clip, xs, ys, strict=True):
        frame[(grid_x - x) ** 2 + (grid_y - y) ** 2 <= radius**2] = colour
    return clip


def test_still_clip_is_perfectly_steady_and_does_not_move():
    still = np.repeat(texture()[None], 5, 0)
    assert metrics.flicker(still) == 0
    assert metrics.warp_error(still).error == pytest.approx(0, abs=1e-9)
    assert metrics.motion(still) == pytest.approx(0, abs=0.01)
    assert metrics.identity_drift(still) == 0


def test_single_frame():
    one = texture()[None]
    assert metrics.flicker(one) == metrics.motion(one) == metrics.identity_drift(one) == 0
    assert metrics.warp_error(one) == (0.0, 1.0)


@pytest.mark.parametrize(("dx", "dy"), [(2, 1), (3, 0), (0, 4)])
def test_translation_has_its_speed_and_little_warp_error(dx, dy):
    clip = translating(dx=dx, dy=dy)
    assert metrics.motion(clip) == pytest.approx(np.hypot(dx, dy), rel=0.1)
    flow = np.stack([metrics.estimate_flow(a, b) for a, b in pairwise(clip)])[:, 12:-12, 12:-12]
    assert np.median(flow[..., 0]) == pytest.approx(-dx, abs=0.2)
    assert np.median(flow[..., 1]) == pytest.approx(-dy, abs=0.2)
    error, coverage = metrics.warp_error(clip)
    assert error < 2e-3 < metrics.warp_error(independent()).error / 50
    assert coverage > 0.85
    assert metrics.flicker(clip) > 0.02  # plain difference counts motion as flicker


def test_true_flow_is_exact():
    clip = translating(dx=2, dy=1)
    flow = np.broadcast_to(np.float32([-2, -1]), (5, SIZE, SIZE, 2))
    error, coverage = metrics.warp_error(clip, flow=flow)
    assert error == pytest.approx(0, abs=1e-9)
    assert coverage == pytest.approx((SIZE - 2) * (SIZE - 1) / SIZE**2)
    assert metrics.motion(clip, flow=flow) == pytest.approx(np.sqrt(5))
    seen = np.zeros((5, SIZE, SIZE), bool)
    seen[:, 10:20, 10:20] = True
    assert metrics.warp_error(clip, flow=flow, visible=seen).coverage == pytest.approx(100 / SIZE**2)


def test_independent_frames_are_incoherent():
    clip = independent()
    assert metrics.flicker(clip) == pytest.approx(1 / 3, rel=0.02)  # E|u - v| of two uniforms
    error, coverage = metrics.warp_error(clip)
    assert error > 0.1
    assert coverage < 0.7
    shared = np.repeat(clip[:1], 6, 0) * 0.9 + clip * 0.1
    assert metrics.warp_error(shared).error < error / 10


def test_brightness_flicker_is_measured_exactly():
    still = np.repeat(texture()[None] * 0.5, 6, 0)
    clip = still.copy()
    clip[1::2] += 0.1
    assert metrics.flicker(clip) == pytest.approx(0.1, rel=1e-4)
    nothing = np.zeros((5, SIZE, SIZE, 2), np.float32)
    assert metrics.warp_error(clip, flow=nothing).error == pytest.approx(3 * 0.01, rel=1e-3)  # three channels
    assert metrics.identity_drift(clip) == pytest.approx(
        0.1 * 3 / 5, rel=1e-3
    )  # three of five later frames are shifted


def test_colour_change_is_identity_drift_and_motion_is_not():
    t = np.arange(12)
    moving = blobs(30 + 3 * t, 40 + 0 * t)
    assert metrics.identity_drift(moving) == pytest.approx(0, abs=1e-4)
    recoloured = moving.copy()
    recoloured[6:][recoloured[6:, ..., 1] < 0.4] = (0, 0, 1)
    region = moving[..., 1] < 0.4
    assert metrics.identity_drift(moving, region) == pytest.approx(0, abs=1e-6)
    assert metrics.identity_drift(recoloured, region) > 0.2
    assert metrics.identity_drift(recoloured) > 10 * metrics.identity_drift(moving) + 0.002


def test_identity_drift_does_not_fail_where_the_character_is_lost():
    clip = blobs([30, 30, 30], [40, 40, 40])
    region = clip[..., 1] < 0.4
    region[2] = False
    assert metrics.identity_drift(clip, region) > 0.1


def test_moving_disc_has_its_exact_path():
    t = np.arange(16)
    x, y = 48 + 12 * np.sin(2 * np.pi * t / 8), np.full(16, 40.0)
    path = paths.centroid_path(blobs(np.round(x), y), (1, 0, 0))
    np.testing.assert_allclose(path, np.stack([np.round(x), y], -1), atol=1e-5)
    assert paths.path_amplitude(path) == pytest.approx(12 / np.sqrt(2), rel=0.03)


def test_path_of_a_colour_that_leaves():
    clip = blobs([20, 30, 40, 50], [30] * 4)
    clip[2] = 0.5
    path = paths.centroid_path(clip, (1, 0, 0))
    assert np.isnan(path[2]).all()
    assert paths.seen_share(path) == 0.75
    assert paths.path_amplitude(path) == pytest.approx(np.std([20, 30, 50]))
    assert np.isnan(paths.path_amplitude(paths.centroid_path(clip, (0, 1, 0))))


def test_limbs_relative_to_the_body():
    t = np.arange(8)
    clip = blobs(30 + 4 * t, 0 * t + 30)
    limb = blobs(30 + 4 * t, 60 + 6 * (t % 2), colour=(0, 0, 1))
    clip = np.where((limb != 0.5).any(-1, keepdims=True), limb, clip)
    body = paths.centroid_path(clip, (1, 0, 0))
    foot = paths.limb_paths(clip, {"foot": (0, 0, 1)})["foot"]
    assert paths.path_amplitude(foot - body) == pytest.approx(3, rel=1e-4)  # the body walks, the foot steps
    assert paths.path_amplitude(foot) > 8


def test_jerkiness_tells_swinging_from_jumping():
    t = np.arange(200)
    swing = np.stack([10 * np.sin(2 * np.pi * t / 16), 0 * t], -1)
    jumps = np.random.default_rng(0).normal(size=(2000, 2))
    assert paths.path_jerkiness(swing) == pytest.approx((2 * np.pi / 16) ** 2, rel=0.02)
    assert paths.path_jerkiness(jumps) == pytest.approx(np.sqrt(6), rel=0.05)
    assert paths.path_jerkiness(np.stack([t, t], -1).astype(float)) == pytest.approx(0, abs=1e-9)
    assert paths.path_jerkiness(np.zeros((5, 2))) == 0


def test_metrics_do_not_care_how_a_clip_is_stored():
    clip = (translating() * 255).round().astype(np.uint8)
    floats = clip.astype(np.float32) / 255
    for metric in (metrics.flicker, metrics.motion, metrics.identity_drift, lambda c: metrics.warp_error(c).error):
        assert metric(clip) == metric(floats) == metric(torch.from_numpy(floats)) == metric(torch.from_numpy(clip))
        assert metric(clip[::-1]) == pytest.approx(metric(clip), rel=0.15, abs=2e-3)  # played backwards


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((4, 8, 8)), "shape"),
        (np.zeros((4, 3, 8, 8)), "shape"),
        (np.zeros((0, 8, 8, 3)), "shape"),
        (np.full((2, 8, 8, 3), 200.0), "0..1"),
        (np.full((2, 8, 8, 3), np.nan), "finite"),
    ],
)
def test_what_is_no_clip_is_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        metrics.flicker(clip)


def test_flow_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="flow"):
        metrics.warp_error(translating(), flow=np.zeros((6, SIZE, SIZE, 2)))
    with pytest.raises(ValueError, match="visible"):
        metrics.warp_error(translating(), visible=np.ones((5, SIZE, SIZE)))


def test_seam_score():
    clip = np.zeros((9, 8, 8, 3), np.float32)
    clip += np.array([0, 1, 2, 3, 6, 7, 8, 9, 10], np.float32)[:, None, None, None] / 20
    assert metrics.seam_score(clip, [4]) == pytest.approx(3)
    assert metrics.seam_score(clip, [2]) == pytest.approx(1 / (9 / 7))
    assert np.isnan(metrics.seam_score(clip, [])) and np.isnan(metrics.seam_score(clip[:1].repeat(9, 0), [4]))
    for wrong in ([0], [9], [-1]):
        with pytest.raises(ValueError, match="outside frames 1 to 8"):
            metrics.seam_score(clip, wrong)


def test_each_half_pixel_of_a_pan_is_a_drawing_and_a_fade_is_one_every_few_frames():
    import cv2

    big = cv2.resize(texture(128), (512, 512), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    pan = np.stack([cv2.resize(big[:, i : i + 480], (256, 256), interpolation=cv2.INTER_AREA) for i in range(5)])
    assert list(new_drawings(pan.repeat(3, 0))) == [True, False, False] * 5
    fade = np.stack([np.full((64, 64, 3), level, np.uint8) for level in range(100, 122)])
    assert list(new_drawings(fade)) == [i % 7 == 0 for i in range(22)]  # each level alone would be a repeat


def test_figures_of_a_clip_are_those_of_its_metrics():
    clip, region = translating(), np.zeros((6, SIZE, SIZE), bool)
    region[:, 20:40, 20:40] = True
    error, coverage = metrics.warp_error(clip)
    expected = {
        "flicker": metrics.flicker(clip),
        "warp_error": error,
        "coverage": coverage,
        "motion": metrics.motion(clip),
        "identity_drift": metrics.identity_drift(clip, region),
        "repeated": 0,
    }
    assert figures(clip, region) == pytest.approx(expected, rel=1e-5)
    still = {"flicker": 0, "warp_error": 0, "coverage": 1, "motion": 0, "identity_drift": 0, "repeated": 0}
    assert figures(clip[:1]) == still
