"""Image Grid in a real ComfyUI."""

import pytest
import torch

from sdxl_anime_video.media.sheets import image_grid
from sdxl_anime_video.nodes.image_grid import ImageGrid


def test_the_sheet_holds_the_batch_which_stays_as_it_was():
    images = torch.rand(4, 32, 40, 3)
    before = images.clone()
    (sheet,) = ImageGrid.execute(images, 2, "one\n\nthree\n\n\n").result
    assert torch.equal(sheet[0], torch.from_numpy(image_grid(images.numpy(), 2, ["one", "", "three"])))
    assert sheet.shape[0] == 1 and sheet.dtype == torch.float32
    assert torch.equal(images, before)
    assert torch.equal(ImageGrid.execute(images.half(), 2, "").result[0].half()[0, 8:40, 8:48], images[0].half())


@pytest.mark.parametrize(
    "shape, columns, labels, message",
    [
        ((0, 8, 8, 3), 0, "", r"Image Grid: images has shape \[0, 8, 8, 3\]"),
        ((1, 8, 8), 0, "", r"Image Grid: images has shape \[1, 8, 8\]"),
        ((1, 8, 8, 3), -2, "", "Image Grid: columns is -2"),
        ((1, 8, 8, 3), 0, "a\nb", "Image Grid: there are 2 labels for 1 images"),
    ],
)
def test_what_cannot_be_is_said(shape, columns, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageGrid.execute(torch.zeros(shape), columns, labels)
