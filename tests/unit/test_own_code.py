"""The digest of the code that samples: wording does not change it, and whatever can change latents does."""

import shutil

import pytest

from sdxl_anime_video.temporal.hosts.comfy.resume.own_code import PACK, own_code

NOISE, ATTENTION = "temporal/clip/noise.py", "temporal/layers/attention.py"
EDITS = {  # a file, what is replaced there by what, and whether the digest stays
    "a comment": (NOISE, "BASE = -1", "# a word\nBASE = -1", True),
    "a docstring": (NOISE, '"""', '"""Another. ', True),
    "a metric": ("temporal/measure/metrics.py", "\n\n\n", "\n\n\nNEW = 1\n", True),
    "a constant": (NOISE, "BASE = -1", "BASE = -2", False),
    "a layer": (ATTENTION, "\n\n\n", "\n\n\nNEW = 1\n", False),
    "a step of BestHQ": ("schedulers/best_hq.py", "1 / (2 * r)", "1 / (3 * r)", False),
}


@pytest.mark.parametrize("name", EDITS)
def test_of_this_pack_the_code_that_samples_counts(name, tmp_path):
    for folder in ("temporal", "schedulers"):
        shutil.copytree(PACK / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "sdxl"))
    assert own_code(tmp_path) == own_code()
    path, old, new, same = EDITS[name]
    text = (tmp_path / path).read_text()
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new, 1))
    own_code.cache_clear()
    assert (own_code(tmp_path) == own_code()) == same
