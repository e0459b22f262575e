"""Paint the pictures that the node registry shows: the icon, 400 px square, and the banner, 21:9.

python -m sdxl_anime_video.benchmarks.making.pictures
"""

import sys
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from ...demo.painter import paint_clip

CLIPS = (
    "girl, blue hair, red dress, sunset, run",
    "cat, white hair, blue coat, night, turn",
    "boy, red hair, white shirt, meadow, wave",
)


def main() -> None:
    """Write demo/icon.png and demo/banner.png."""
    icon = paint_clip(CLIPS[0], frames=3, size=400, seed=3).frames[-1]
    rows = np.stack([paint_clip(caption, frames=7, size=180, seed=3).frames for caption in CLIPS])
    banner = rearrange(rows, "clip frame h w c -> (clip h) (frame w) c")
    for name, picture in (("icon", icon), ("banner", banner)):
        path = Path(__file__).parents[2] / "demo" / f"{name}.png"
        Image.fromarray(picture).quantize(64).save(path, optimize=True)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
