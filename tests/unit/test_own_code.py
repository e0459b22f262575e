"""The digest of the code that samples: wording does not change it, and whatever can change latents does."""

import shutil

import pytest

from sdxl_anime_video.temporal.hosts.comfy.resume.own_code import PACK, own_code

EDITS = {
    "a comment": ("temporal/clip/noise.py", "    base = torch.randn(", "    # a word\n    base = torch.randn(", True),
    "a docstring": ("temporal/clip/noise.py", '''"""Stands for b''', '''"""Is b''', True),
    "a metric": ("temporal/measure/metrics.py", "import numpy as np", "import numpy as np\n\nNEW = 1", True),
    "a constant": ("temporal/clip/noise.py", "BASE = -1", "BASE = -2", False),
    "a layer": ("temporal/layers/attention.py", "import torch", "import torch\n\nNEW = 1", False),
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
