"""A page of clips as text: everything in it, nothing from a network, captions that cannot end its script."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sdxl_anime_video.rendering.page import Figure, PageClip, clips_page

FIGURES = {"flicker": Figure("flicker", 3, "less is steadier")}


def page(caption="a", frames=5, shape=(16, 24)):
    """A page of one clip whose frames are plain grey, each lighter than the one before."""
    clip = np.stack([np.full((*shape, 3), 15 * i, np.uint8) for i in range(frames)])
    clips = [PageClip("one", clip, {"flicker": float("nan")}), PageClip("two", clip / 255, {"flicker": 0.25})]
    return clips_page("t", "lead", [(caption, clips)], FIGURES, {"two": {"flicker": 0.5}}, 12)


def told(html):
    """The data of the page's script."""
    return json.loads(re.search(r"^const told = (.*);$", html, re.MULTILINE)[1])


@pytest.mark.parametrize("frames", [1, 5, 16])
def test_every_frame_is_on_the_sheet_in_order(frames):
    clip = told(page(frames=frames))["rows"][0]["clips"][0]
    with Image.open(BytesIO(base64.b64decode(clip["sheet"].partition(",")[2]))) as sheet:
        grey = np.asarray(sheet.convert("L"), int)
    width, height = clip["shape"]
    for i in range(frames):
        row, column = divmod(i, clip["columns"])
        assert abs(grey[row * height + height // 2, column * width + width // 2] - 15 * i) < 6
    assert (width, height, clip["frames"]) == (24, 16, frames)


def test_large_frames_are_made_smaller():
    clip = told(page(frames=2, shape=(400, 800)))["rows"][0]["clips"][0]
    assert clip["shape"] == [384, 192]


def test_unknown_figures_are_null_and_both_kinds_of_frames_are_equal():
    one, two = told(page())["rows"][0]["clips"]
    assert one["figures"] == {"flicker": None} and two["figures"] == {"flicker": 0.25}
    assert one["sheet"] == two["sheet"]


def test_it_needs_no_network_and_no_caption_ends_the_script():
    html = page(caption="</script><!--<script> \u2603")
    assert not re.search(r"(src|href)=|https?://", html)
    assert html.count("</script>") == 1 and told(html)["rows"][0]["caption"].startswith("</script>")
