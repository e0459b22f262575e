"""The adapter, chains, windows and ControlNets under TorchCompileModel's wrapper: equal to the model that is not
compiled, and traced once.

The backend `eager` takes the place of a compiler: it traces the same code, and traces again in the same cases.
"""

import comfy.ldm.modules.attention
import comfy.sample
import pytest
import torch
import torch._dynamo
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters

import tiny
from clip_sampling import chained, controlled, correlated, empty, windowed
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter

CONFIG = tiny.TinyConfig(widths=(64,), depth=(1,))


@pytest.fixture(scope="module")
def plain():
    return tiny.comfy_model(CONFIG)


@pytest.fixture(scope="module")
def adapter(plain):
    made = TemporalAdapter.create({b.path: (b.dim, b.heads) for b in model_blocks(plain)}, max_frames=8)
    tiny.randomise(made, seed=7)
    return as_patcher(made)


def compiled(model):
    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    return model


def sample(model, frames=4, steps=2, cfg=2.0, prompts=None):
    latent = empty(frames)
    prompts = prompts or controlled(model, torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    noise = comfy.sample.prepare_noise(latent, 5)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "karras", *prompts, latent, seed=5, disable_pbar=True
        )


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """Core's attention for CPUs asks how much memory is free, which splits the graph in every block."""
    monkeypatch.setattr(
        comfy.ldm.modules.attention, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch
    )
    torch._dynamo.reset()


def traced() -> int:
    return counters["stats"]["unique_graphs"]


def test_changes_of_strength_are_not_stale(plain, adapter):
    quick, results = compiled(plain), []
    for settings in ((1.0,), (0.5,), (1.0, 0.0, 0.4), (0.0,)):
        adapted = [apply_adapter(one, adapter, *settings) for one in (plain, quick)]
        results.append(sample(adapted[0]))
        assert torch.equal(sample(adapted[1]), results[-1]), settings
    assert all(not torch.equal(a, b) for a in results for b in results if a is not b)
    first, half = (sample(apply_adapter(quick, adapter, strength)) for strength in (1.0, 0.5))
    assert torch.equal(first, results[0]) and torch.equal(half, results[1])


@pytest.mark.parametrize("cut", [chained, windowed], ids=["chain", "windows"])
def test_nothing_is_traced_again_for_a_step_a_segment_or_a_strength(plain, adapter, cut):
    plain = correlated(plain)
    quick = compiled(plain)
    sample(cut(apply_adapter(quick, adapter), 4), 7, steps=2)
    graphs = traced()
    assert graphs
    for strength in (1.0, 0.3):
        clip = [sample(cut(apply_adapter(one, adapter, strength), 4), 10, steps=4) for one in (plain, quick)]
        assert torch.equal(*clip)
    assert traced() == graphs
