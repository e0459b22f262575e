"""The page of clips in a real browser: all clips show one frame, keys and the scrubber move them together."""

import numpy as np
import pytest

from sdxl_anime_video.rendering.page import Figure, PageClip, clips_page

FRAMES = 5


@pytest.fixture
def page(chromium, tmp_path):
    clip = np.random.default_rng(0).integers(0, 255, (FRAMES, 32, 48, 3)).astype(np.uint8)
    values = {"painted": 1.0, "plain": 0.2, "better": 0.9, "worse": 0.1}
    clips = [PageClip(label, clip, {"motion": value}) for label, value in values.items()]
    figures = {"motion": Figure("motion", 2, "1 is as far as painted")}
    html = clips_page("Clips", "", [("run", clips)], figures, {}, 12, target="painted", base="plain")
    (tmp_path / "index.html").write_text(html, "utf-8")
    opened = chromium.new_page()
    faults = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto((tmp_path / "index.html").as_uri())
    yield opened
    opened.close()
    assert not faults


def places(page):
    return page.evaluate("() => [...document.querySelectorAll('.clip')].map((clip) => clip.style.backgroundPosition)")


def test_clips_play_by_themselves_and_step_together(page):
    page.wait_for_function("() => document.querySelector('output').textContent === '3 / 5'")
    page.keyboard.press("ArrowRight")  # stops
    assert page.text_content("button") == "Play"
    seen = set()
    for _ in range(FRAMES):
        assert len(set(places(page))) == 1 and len(places(page)) == 4
        seen.add(places(page)[0])
        page.keyboard.press("ArrowRight")
    assert len(seen) == FRAMES
    page.locator("input").fill("1")
    assert page.text_content("output") == "2 / 5" and len(set(places(page))) == 1


def test_arrows_say_which_clip_is_nearer_to_the_target(page):
    rows = dict(row.split("\t") for row in page.locator("tbody tr").all_inner_texts())
    assert rows == {"run: painted": "1.00", "run: plain": "0.20", "run: better": "0.90 ▲", "run: worse": "0.10 ▼"}
