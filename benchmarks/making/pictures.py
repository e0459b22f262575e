"""Paint the pictures that the node registry shows: the icon, 400 px square, and the banner, 21:9.

python -m sdxl_anime_video.benchmarks.making.pictures
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from ...demo.painter import paint_clip

FOLDER = Path(__file__).parents[2] / "demo"
CLIPS = (
    "girl, blue hair, red dress, sunset, run",
    "cat, white hair, blue coat, night, turn",
    "boy, red hair, white shirt, meadow, wave",
)
SEED = 3


def main() -> int:
    """Write demo/icon.png and demo/banner.png; returns the exit status."""
    rows = np.stack([paint_clip(caption, frames=7, size=180, seed=SEED).frames for caption in CLIPS])
    pictures = {
        "icon": paint_clip(CLIPS[0], frames=3, size=400, seed=SEED).frames[-1],
        "banner": rearrange(rows, "clip frame h w c -> (clip h) (frame w) c"),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).quantize(64).save(FOLDER / f"{name}.png", optimize=True)
        sys.stdout.write(f"{FOLDER / name}.png\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
