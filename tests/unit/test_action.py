"""The figure that says whether limbs do what a caption asks, on clips of the painter."""

import numpy as np
import pytest

from sdxl_anime_video.demo.judge import read_limbs
from sdxl_anime_video.demo.painter import paint_clip
from sdxl_anime_video.demo.painter.action import ACTIONS_OF_LIMBS, action_correlation


@pytest.fixture(scope="module", params=ACTIONS_OF_LIMBS)
def action(request):
    """(action, the limbs' paths in a painted clip of it, as they are found by colour)."""
    clip = paint_clip(f"girl, blue hair, white dress, sunset, {request.param}", 16, 96, seed=3)
    return request.param, read_limbs(clip.frames)


def test_a_painted_clip_does_its_own_action_and_no_other(action):
    name, limbs = action
    found = {other: action_correlation(limbs, other) for other in ACTIONS_OF_LIMBS}
    assert found.pop(name) > 0.97
    assert max(found.values()) < 0.35


def test_place_amplitude_and_hidden_limbs_do_not_count(action):
    name, limbs = action
    changed = {limb: 0.5 * path + 20 for limb, path in limbs.items()}
    assert action_correlation(changed, name) == pytest.approx(action_correlation(limbs, name))
    changed["far_hand"] = np.full_like(changed["far_hand"], np.nan)
    changed["near_foot"][::3] = np.nan
    assert action_correlation(changed, name) > 0.97


def test_noise_and_stills_do_no_action(action):
    name, limbs = action
    random = np.random.default_rng(0)
    assert action_correlation({limb: random.normal(size=path.shape) for limb, path in limbs.items()}, name) < 0.4
    assert action_correlation({limb: np.ones_like(path) for limb, path in limbs.items()}, name) == 0


def test_actions_without_limbs_and_clips_without_places_have_no_figure(action):
    _, limbs = action
    assert np.isnan(action_correlation(limbs, "pan"))
    assert np.isnan(action_correlation({limb: np.full_like(path, np.nan) for limb, path in limbs.items()}, "run"))
