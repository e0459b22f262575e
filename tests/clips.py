"""A clip for tests of media: drawn here, so that its truth is known."""

import numpy as np

PALETTE = [
    (250, 205, 180),
    (70, 120, 230),
    (230, 60, 90),
    (90, 200, 110),
    (245, 230, 90),
    (40, 35, 60),
    (255, 255, 255),
]


def painted(frames=8, height=96, width=128) -> np.ndarray:
    """uint8 [F, H, W, 3]: bands of flat colour with a black outline and a disc that moves."""
    rows, columns = np.mgrid[:height, :width]
    clip = np.empty((frames, height, width, 3), np.uint8)
    bands = np.array(PALETTE, np.uint8)[(columns * len(PALETTE) // width)]
    for index, picture in enumerate(clip):
        distance = np.hypot(rows - height / 2, columns - 20 - 4 * index)
        picture[:] = bands
        picture[distance < 18] = (20, 20, 20)
        picture[distance < 15] = (230, 60, 90)
    return clip
