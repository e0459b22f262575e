"""Temporal layers, chains, windows and ControlNets under TorchCompileModel's wrapper: the compiled model equals the
uncompiled one, and is traced once.

The backend `eager` takes the place of a compiler: it traces the same code, and traces again in the same cases.
"""

from functools import cache

import comfy.ldm.modules.attention
import pytest
import torch
import torch._dynamo
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters

import motion
from clip_sampling import CONFIG, adapted, chained, controlled, correlated, ksample, model, pictures, windowed
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher


@cache
def _built_module():
    return as_patcher(motion.module("hotshot", CONFIG))


def moving(model, *settings):
    """The model with a random motion module; its strength and range."""
    return apply_motion_module(model, _built_module(), *settings, beta_schedule="sdxl")


def compiled(model):
    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    return model


@torch.inference_mode()
def sample(model, frames=4, steps=2, **conds):
    return ksample(model, frames=frames, steps=steps, **conds)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """Core's attention for CPUs asks how much memory is free, which splits the graph in every block."""
    monkeypatch.setattr(
        comfy.ldm.modules.attention, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch
    )
    torch._dynamo.reset()


def traced() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("layered", [adapted, moving])
def test_a_compiled_model_does_what_each_call_asks_for(layered):
    plain = model()
    quick, results = compiled(plain), []
    settings = (0.0,), (1.0,), (0.5,), (1.0, 0.0, 0.4)  # in the last, the second step is without
    for each in settings:
        results.append(sample(layered(plain, *each)))
        assert torch.equal(sample(layered(quick, *each)), results[-1]), each
    assert all(not torch.equal(a, b) for a in results for b in results if a is not b)
    graphs = traced()
    assert graphs
    for each, expected in zip(settings, results, strict=True):
        assert torch.equal(sample(layered(quick, *each)), expected), each
    assert traced() == graphs
    assert torch.equal(sample(quick), results[0])


@pytest.mark.parametrize("cut", [chained, windowed], ids=["chain", "windows"])
def test_nothing_is_traced_again_for_a_step_a_segment_or_a_strength(cut):
    plain = correlated(model())
    quick, conds = compiled(plain), dict(zip(("positive", "negative"), controlled(pictures(4)), strict=True))
    sample(cut(adapted(quick), 4), 7, **conds)
    graphs = traced()
    assert graphs
    for strength in (1.0, 0.3):
        clip = [sample(cut(adapted(one, strength), 4), 10, 4, **conds) for one in (plain, quick)]
        assert torch.equal(*clip)
    assert traced() == graphs
