"""Fixtures of several unit tests: the toon base, and a few painted clips."""

import pytest

from runs import painted_clips
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base


@pytest.fixture(scope="module")
def toon():
    """A base of the module's own, because a test may put layers into its UNet."""
    return load_base("toon")


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory):
    return painted_clips(tmp_path_factory.mktemp("clips"))
