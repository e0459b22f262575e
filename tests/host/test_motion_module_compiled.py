"""Motion modules under TorchCompileModel's wrapper: a compiled UNet still follows the settings of each call.

The backend `eager` takes the place of a compiler: it traces the same code, and traces again in the same cases.
"""

import comfy.sample
import torch
import torch._dynamo
from comfy_api.torch_helpers import set_torch_compile_wrapper

import motion
import tiny
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher

CONFIG = tiny.TinyConfig(widths=(64,), depth=(1,))
POSITIVE = tiny.conditioning(CONFIG)


def sample(model):
    noise = tiny.latent(3, 4, 4)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 1.0, "euler", "normal", POSITIVE, POSITIVE, 0 * noise, disable_pbar=True, seed=3
        )


def test_a_compiled_model_does_what_each_call_asks_for():
    torch._dynamo.reset()
    compiled = plain = tiny.comfy_model(CONFIG)
    patcher = as_patcher(motion.module("hotshot", CONFIG))
    compiled = plain.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    before = sample(plain)
    results = []
    for settings in ((1.0,), (0.5,), (1.0, 0.0, 0.6)):  # in the last one, the second step has no module
        made = [apply_motion_module(model, patcher, *settings, beta_schedule="sdxl") for model in (plain, compiled)]
        results.append(sample(made[0]))
        assert torch.equal(sample(made[1]), results[-1]), settings
    assert all(not torch.equal(a, b) for a in (*results, before) for b in (*results, before) if a is not b)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sample(made[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # nothing is traced again
    assert torch.equal(sample(compiled), before)
