"""Edges of painted frames, whose outlines are known."""

import numpy as np
import pytest

import clips
from sdxl_anime_video.media.hints import canny, hint_size, resized


def test_edges_lie_on_the_outlines_and_nowhere_else():
    picture = np.full((96, 128, 3), 200, np.uint8)
    picture[20:60, 30:90] = (40, 90, 160)
    edges = canny(picture, 100, 200)[..., 0] > 0
    rows, columns = np.nonzero(edges)
    assert set(np.unique(edges)) == {False, True}
    on_border = (np.minimum(abs(rows - 20), abs(rows - 59)) <= 1) | (
        np.minimum(abs(columns - 30), abs(columns - 89)) <= 1
    )
    assert on_border.all()
    assert 150 < len(rows) < 260, "a line of one pixel around 40x60"


def test_a_moving_disc_is_followed():
    found = []
    for picture in clips.painted(frames=6):
        without = picture.copy()
        rows, columns = np.mgrid[:96, :128]
        bands = clips.painted(frames=1, height=96, width=128)[0][0]
        without[:] = bands[None]
        gone = (canny(picture, 100, 200) > 0)[..., 0] & ~(canny(without, 100, 200) > 0)[..., 0]
        found.append(float(columns[gone].mean()))
        assert np.hypot(rows[gone] - 48, columns[gone] - found[-1]).max() < 24
    steps = np.diff(found)
    assert abs(steps.mean() - 4) < 0.7, "the disc moves 4 pixels a frame"


def test_thresholds_choose():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 20:] = 20
    picture[:, 40:] = 220
    assert (canny(picture, 100, 200)[:, 15:25] == 0).all(), "a faint edge"
    assert (canny(picture, 10, 40)[:, 15:25] == 255).any()
    assert (canny(picture, 100, 200)[:, 35:45] == 255).any()


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((720, 1280), 768, (768, 1344)),
        ((1080, 1920), 0, (1080, 1920)),
        ((128, 128), 768, (768, 768)),
        ((1000, 30), 64, (2112, 64)),
        ((300, 300), 10, (64, 64)),
    ],
)
def test_sizes(size, resolution, expected):
    assert hint_size(*size, resolution) == expected


def test_a_thread_of_a_picture_is_refused():
    with pytest.raises(ValueError, match="resolution 768 makes hints of 98304 x 768 pixels out of pictures of 1"):
        hint_size(8, 1024, 768)


def test_resizing():
    picture = clips.painted(frames=1)[0]
    assert resized(picture, 96, 128) is picture
    assert resized(picture, 48, 64).shape == (48, 64, 3)
    halved = resized(
        np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((2, 2), np.uint8))[..., None].repeat(3, 2), 2, 2
    )
    assert halved[..., 0].tolist() == [[0, 255], [255, 0]]
