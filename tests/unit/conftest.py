"""Fixtures of several unit tests: the toon base, a few painted clips, and trainers with both."""

import pytest

from runs import SMALL, painted_clips
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.training.clips.folder import load_clips
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run.trainer import Trainer


@pytest.fixture(scope="module")
def toon():
    """A base of the module's own, because a test may put layers into its UNet."""
    return load_base("toon")


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory):
    return painted_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def trainer(toon, clips_folder, tmp_path):
    """Makes trainers by fields of the config, in fp32, on painted clips or `loaded` ones; the newest has the base."""
    made = []

    def make(base=toon, loaded=None, **fields) -> Trainer:
        settings = {"clips": clips_folder, "output": tmp_path / "run", "precision": "fp32", **SMALL, **fields}
        config = TrainConfig(**settings)
        config.output.mkdir(exist_ok=True)
        for before in made:
            if before.base.unet is base.unet:
                before.unet.detach()
        made.append(Trainer(config, base, loaded or load_clips(clips_folder, base, config.at(0).resolution)))
        return made[-1]

    yield make
    for run in made:
        run.unet.detach()
    toon.unet.disable_gradient_checkpointing()
    toon.unet.eval()
