"""A MODEL that went through our nodes is freed when it is dropped, without a visit of the garbage collector.

ComfyUI keeps weak references to what it has loaded. A MODEL in a reference cycle would be held until some collection,
and then be reported as a memory leak.
"""

import gc
import weakref

import pytest

import motion
from clip_sampling import CONFIG, adapted, anchored, chained, correlated, ksample, model, smoothed, windowed
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher

WAYS = {
    "plain": lambda model: model.clone(),
    "noise": correlated,
    "smoothing": smoothed,
    "anchor": lambda model: anchored(model, strength=0.5),
    "chain": lambda model: chained(model, 3),
    "windows": lambda model: windowed(model, 3),
    "adapter": adapted,
    "motion module": lambda model: apply_motion_module(model, as_patcher(motion.module("animatediff", CONFIG))),
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
    base = model()
    for sampled in (False, True):
        made = WAYS[way](base)
        if sampled:
            ksample(made, frames=4, steps=2)
        alive = weakref.ref(made)
        del made
        assert alive() is None, sampled
