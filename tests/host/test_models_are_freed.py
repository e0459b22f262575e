"""A MODEL that went through our nodes is freed when it is dropped, without a visit of the garbage collector.

ComfyUI keeps weak references to what it has loaded. A MODEL in a reference cycle would be held until some collection,
and then be reported as a memory leak.
"""

import gc
import weakref

import comfy.sample
import pytest
import torch

import motion
import tiny
from clip_sampling import anchored, chained
from sdxl_anime_video.nodes.context_windows import ContextWindows
from sdxl_anime_video.nodes.noise import CorrelatedNoise
from sdxl_anime_video.nodes.smoothing import FrameSmoothing
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter

CONFIG = tiny.ALL_LEVELS
POSITIVE, NEGATIVE = tiny.conditioning(CONFIG, seed=1), tiny.conditioning(CONFIG, seed=2)


def adapted(model):
    adapter = TemporalAdapter.create({block.path: (block.dim, block.heads) for block in model_blocks(model)})
    tiny.randomise(adapter, seed=1)
    return apply_adapter(model, as_patcher(adapter.requires_grad_(False)))


WAYS = {
    "plain": lambda model: model.clone(),
    "noise": lambda model: CorrelatedNoise.execute(model, "progressive", 0.5).result[0],
    "smoothing": lambda model: FrameSmoothing.execute(model, 0.3, 0.0, 1.0).result[0],
    "anchor": lambda model: anchored(model, 2, 0.5, "low", 0.0, 1.0),
    "chain": lambda model: chained(model, 3, 1, "overlap", 0.8),
    "windows": lambda model: ContextWindows.execute(model, 3, 1, "uniform", "pyramid").result[0],
    "adapter": adapted,
    "motion module": lambda model: apply_motion_module(model, as_patcher(motion.module("animatediff"))),
}


@pytest.fixture
def no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_model_is_freed_before_and_after_sampling(way):
    base = tiny.comfy_model(CONFIG)
    for sampled in (False, True):
        model = WAYS[way](base)
        if sampled:
            noise = tiny.latent(4, 8, 8)
            with torch.inference_mode():
                comfy.sample.sample(
                    model,
                    noise,
                    2,
                    2.0,
                    "euler",
                    "normal",
                    POSITIVE,
                    NEGATIVE,
                    torch.zeros_like(noise),
                    disable_pbar=True,
                    seed=3,
                )
        alive = weakref.ref(model)
        del model
        assert alive() is None, sampled
