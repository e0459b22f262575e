"""Pictures on one sheet."""

import time

import numpy as np
import pytest

from sdxl_anime_video.media.sheets import GAP, PAPER, contact_sheet, image_grid, side_by_side


@pytest.fixture
def pictures():
    return np.random.default_rng(0).random((5, 48, 64, 3), np.float32)


def cell(sheet, i, columns, head=0):
    top, left = GAP + i // columns * (head + 48 + GAP) + head, GAP + i % columns * (64 + GAP)
    return sheet[top : top + 48, left : left + 64]


@pytest.mark.parametrize("columns, shape", [(0, (2, 3)), (1, (5, 1)), (2, (3, 2)), (99, (1, 5))])
def test_every_picture_is_there_untouched(pictures, columns, shape):
    sheet = image_grid(pictures, columns)
    rows, columns = shape
    assert sheet.shape == (rows * (48 + GAP) + GAP, columns * (64 + GAP) + GAP, 3) and sheet.dtype == np.float32
    assert all(np.array_equal(cell(sheet, i, columns), picture) for i, picture in enumerate(pictures))
    beside = len(sheet) * sheet.shape[1] - 5 * 48 * 64
    paper = np.all(sheet == np.asarray(PAPER, np.float32) / 255, axis=-1).sum()
    assert paper == beside


def test_labels_stand_above_their_pictures(pictures):
    plain = image_grid(pictures, 3)
    sheet = image_grid(pictures, 3, ["seed 1", "", "a label that is far too long for the picture that it belongs to"])
    head = 12 + GAP
    assert sheet.shape[0] == plain.shape[0] + 2 * head
    assert all(np.array_equal(cell(sheet, i, 3, head), picture) for i, picture in enumerate(pictures))
    paper = np.asarray(PAPER, np.float32) / 255
    inked = [bool((sheet[GAP : GAP + head, GAP + i * (64 + GAP) :][:, :64] != paper).any()) for i in range(3)]
    assert inked == [True, False, True]
    assert (sheet[:, 3 * (64 + GAP) :] == paper).all()  # the long one stays within its column


def test_a_label_as_long_as_a_prompt(pictures):
    """Cut to what fits, and at once: measuring every length of a text takes a minute."""
    start = time.perf_counter()
    sheet = image_grid(pictures[:1], 0, ["word " * 1000])
    assert time.perf_counter() - start < 5
    assert np.array_equal(sheet, image_grid(pictures[:1], 0, ["word " * 5]))


def test_the_alpha_channel_is_dropped(pictures):
    with_alpha = np.concatenate([pictures, np.zeros_like(pictures[..., :1])], axis=-1)
    assert np.array_equal(image_grid(with_alpha), image_grid(pictures))


@pytest.mark.parametrize(
    "count, columns, labels, message",
    [
        (0, 0, (), "there are no images"),
        (2, -1, (), "columns is -1"),
        (2, 1, ("a", "b", "c"), "there are 3 labels for 2 images"),
    ],
)
def test_what_cannot_be_is_said(pictures, count, columns, labels, message):
    with pytest.raises(ValueError, match=message):
        image_grid(pictures[:count], columns, labels)


def test_a_row_for_each_clip():
    clip = np.random.default_rng(0).integers(0, 256, (17, 32, 48, 3), np.uint8)
    sheet = np.asarray(contact_sheet([("first", clip), ("second, in floats", clip[:3] / 255)], columns=4, side=32))
    assert sheet.shape == (2 * (13 + 8 + 32) + 4, 4 * 48 + 3 * 4, 3)
    for row, shown in enumerate(((0, 5, 11, 16), (0, 1, 2))):
        top = row * (13 + 8 + 32 + 4)
        assert (sheet[top : top + 21] != PAPER).any()
        for i, number in enumerate(shown):
            assert np.array_equal(sheet[top + 21 : top + 53, i * 52 : i * 52 + 48], clip[number])
    assert (sheet[-32:, 3 * 52 :] == PAPER).all()


def test_clips_play_beside_each_other_as_long_as_the_shortest():
    clip = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    played = side_by_side([[("a\nb", clip), ("c", clip[:4])], [("d", clip)]], side=16)
    assert played.shape == (4, (2 * 17 + 4 + 16) + 4 + (21 + 16), 2 * 24 + 4, 3)
    assert np.array_equal(played[3, 38:54, :24], clip[3])
