"""Networks that draw hints, filled from tensors of the published names and shapes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import hint_weights
from sdxl_anime_video.media import detectors
from sdxl_anime_video.media.detectors import FACE, FILES, HAND, build, files_of
from sdxl_anime_video.media.hints import KINDS


def test_every_kind_has_its_files():
    assert set(KINDS) == {*FILES, "canny"}
    assert files_of("canny") == () and files_of("depth", hand=True, face=True) == (FILES["depth"],)
    assert files_of("openpose", face=True) == (FILES["openpose"], FACE)
    assert files_of("openpose", hand=True, face=True) == (FILES["openpose"], HAND, FACE)


def test_hands_and_faces_are_networks_of_their_own():
    states = {name: hint_weights.state(name) for name in (FILES["openpose"], HAND, FACE)}
    states[HAND]["conv1_1.weight"] += 1
    body, hand, face = build("openpose", states).networks
    assert torch.equal(hand.model1_0.conv1_1.weight, states[HAND]["conv1_1.weight"])
    assert torch.equal(body.model0.conv1_1.weight, states[FILES["openpose"]]["conv1_1.weight"])
    assert torch.equal(face.conv6_2_CPM.weight, states[FACE]["conv6_2_CPM.weight"])
    states[FACE].pop("conv6_2_CPM.weight")
    with pytest.raises(
        ValueError, match=r"facenet\.pth is of another network: 1 of \d+ tensors .* conv6_2_CPM\.weight"
    ):
        build("openpose", states)


def test_a_hand_is_drawn_as_by_the_library(monkeypatch):
    """The library's colours come from matplotlib, which need not be installed: here they come from colorsys."""
    import colorsys
    from types import SimpleNamespace

    colours = SimpleNamespace(hsv_to_rgb=lambda hsv: np.array(colorsys.hsv_to_rgb(*hsv)))
    monkeypatch.setitem(sys.modules, "matplotlib", SimpleNamespace(colors=colours))
    library = detectors.library_module("open_pose")
    random = np.random.default_rng(0)
    for _ in range(5):
        places = random.uniform(0, 1, (21, 2))
        places[random.uniform(size=21) < 0.2] = -1 / 128, 0.5  # not found
        joints = [library.Keypoint(x, y) for x, y in places]
        ours = np.zeros((96, 128, 3), np.uint8)
        detectors.draw_hand(ours, joints)
        theirs = library.util.draw_handpose(np.zeros_like(ours), joints)
        assert ours.any() and np.array_equal(ours, theirs)


def test_no_depth_is_black():
    """All of a picture equally far: 0 / 0 in the library."""
    name = FILES["depth"]
    with torch.device("meta"):
        state = hint_weights.state(name)
    state = {key: torch.zeros_like(value, device="cpu") for key, value in state.items()}
    with np.errstate(all="raise"):
        assert not build("depth", {name: state})(np.zeros((64, 64, 3), np.uint8)).any()


def test_sides_that_are_no_multiples_of_64():
    """Another size is drawn at the nearest that fits, and scaled back."""
    seen = []
    detector = detectors.Detector([], lambda picture: seen.append(picture.shape) or picture)
    for height, width in [(128, 192), (100, 130), (9, 9), (640, 20)]:
        assert detector(np.zeros((height, width, 3), np.uint8)).shape == (height, width, 3)
    assert seen == [(128, 192, 3), (128, 128, 3), (64, 64, 3), (640, 64, 3)]


PROGRAM = """
import sys
sys.path[:] = PATHS
from sdxl_anime_video.media.detectors import library_module
for name in ("open_pose", "midas", "lineart", "lineart_anime", "hed"):
    library_module(name)
print(sorted({"controlnet_aux", "mediapipe", "timm.models.layers"} & set(sys.modules)))
"""


def test_the_rest_of_the_library_is_left_alone():
    """A fresh process that imports the detectors says nothing, and has not imported the others."""
    program = [sys.executable, "-c", PROGRAM.replace("PATHS", repr(sys.path))]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")
