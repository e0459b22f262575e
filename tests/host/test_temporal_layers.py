"""What holds for every kind of temporal layers on a real ComfyUI MODEL, sampled as KSampler does it."""

import copy
import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import clip_sampling
import motion
import tiny
from clip_sampling import CONFIG, SIZE, controlled, difference, evaluate, ksample, modules_of, pictures
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher, load_patcher
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.weights.adapter_file import save_adapter
from sdxl_anime_video.temporal.weights.motion.file import save_motion_module

FRAMES = 4


@dataclass(frozen=True)
class Kind:
    """make(seed): layers with random weights for clips of 8 frames, silent ones for None; apply(MODEL, layers, ...)."""

    node: str
    noun: str
    make: Callable
    apply: Callable
    save: Callable


def new_adapter(seed=5):
    made = TemporalAdapter.create({b.path: (b.dim, b.heads) for b in model_blocks(clip_sampling.model())}, max_frames=8)
    if seed is not None:
        tiny.randomise(made, seed)
    return made.requires_grad_(False)


def new_module(format, seed=5):
    return motion.module("animatediff" if seed is None else format, CONFIG, seed)  # norms of hotshot are never silent


moved = partial(apply_motion_module, beta_schedule="sdxl")
KINDS = {
    "adapter": Kind("Apply Temporal Adapter", "adapter", new_adapter, apply_adapter, save_adapter),
    **{
        format: Kind("Apply Motion Module", "motion module", partial(new_module, format), moved, save_motion_module)
        for format in ("animatediff", "hotshot")
    },
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def layers(kind, tmp_path_factory):
    """From a file, trained on 6 frames."""
    path = tmp_path_factory.mktemp("layers") / "a.safetensors"
    kind.save(kind.make(), path, {"trained_frames": "6"})
    return load_patcher(path)


@pytest.fixture(scope="module")
def model():
    return clip_sampling.model()


def sample(model, frames=FRAMES, **settings):
    return ksample(model, frames=frames, steps=2, **settings)


NEUTRAL = {
    "strength": lambda kind, model, layers: kind.apply(model, layers, 0.0),
    "silent": lambda kind, model, layers: kind.apply(model, as_patcher(kind.make(seed=None))),
    "one frame": lambda kind, model, layers: kind.apply(model, layers),
    "range": lambda kind, model, layers: kind.apply(model, layers, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("neutral", NEUTRAL)
def test_neutral_is_vanilla_to_the_bit(kind, model, layers, neutral):
    frames = 1 if neutral == "one frame" else FRAMES
    plain, made = sample(model, frames), NEUTRAL[neutral](kind, model, layers)
    assert (sample(made, frames) - plain).abs().max() == 0.0
    assert (sample(made.clone(), frames) - plain).abs().max() == 0.0
    comfy.model_management.unload_all_models()
    assert (sample(made, frames) - plain).abs().max() == 0.0
    assert (sample(model, frames) - plain).abs().max() == 0.0


def test_they_move_the_clip_and_leave_the_model_as_it_was(kind, model, layers):
    before, options, plain = modules_of(model), copy.deepcopy(model.model_options), sample(model)
    patched = kind.apply(model, layers)
    moved = sample(patched)
    assert difference(moved, plain) > 0.05
    assert modules_of(model) == before and model.model_options == options
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(patched), moved)
    assert torch.equal(sample(patched.clone().clone()), moved)
    comfy.model_management.unload_all_models()
    assert torch.equal(sample(patched), moved)
    assert modules_of(model) == before


def test_weights_join_memory_management_and_are_let_go(kind, model):
    patcher = as_patcher(kind.make())
    patched = kind.apply(model, patcher)
    sample(patched)
    assert any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())
    comfy.model_management.unload_all_models()
    assert not any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())
    alive = weakref.ref(patcher.model)
    del patched, patcher
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.3, 0.7), (0.0, 0.5), (0.5, 1.0)])
def test_a_range_changes_the_steps_inside_only(kind, model, layers, start, end):
    percents = [0.1, 0.29, 0.31, 0.45, 0.55, 0.69, 0.71, 0.9]
    sampling = model.get_model_object("model_sampling")
    sigmas = [sampling.percent_to_sigma(percent) for percent in percents]
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    ours, plain = evaluate(kind.apply(model, layers, 1.0, start, end), sigmas, x), evaluate(model, sigmas, x)
    changed = [not torch.equal(a, b) for a, b in zip(ours, plain, strict=True)]
    assert changed == [start <= percent <= end for percent in percents]


# Beside a LoRA and a ControlNet.


def test_lora_below_or_above(kind, model, layers):
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    name = next(name for name, key in keys.items() if name.startswith("lora_unet_") and key.endswith("to_q.weight"))
    width = model.model.state_dict()[keys[name]].shape[0]
    lora = {f"{name}.lora_up.weight": torch.randn(width, 4), f"{name}.lora_down.weight": torch.randn(4, width)}

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)[0]

    below = sample(kind.apply(with_lora(model), layers))
    assert torch.equal(sample(with_lora(kind.apply(model, layers))), below)
    assert difference(below, sample(kind.apply(model, layers))) > 1e-3
    alone = sample(with_lora(model))
    assert difference(below, alone) > 1e-3
    assert torch.equal(sample(kind.apply(with_lora(model), layers, 0.0)), alone)


def test_controlnet_beside(kind, model, layers):
    positive, negative = controlled(pictures(FRAMES))
    controls = []

    def watch(executor, x, t, context, y, control, *args, **kwargs):
        controls.append([value.clone() for values in control.values() for value in values if value is not None])
        return executor(x, t, context, y, control, *args, **kwargs)

    def run(model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
        return ksample(model, frames=FRAMES, steps=1, positive=positive, negative=negative)

    alone = run(model)
    assert difference(run(kind.apply(model, layers)), alone) > 1e-3
    assert len(controls[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*controls, strict=True))  # the ControlNet itself has no such layers
    assert torch.equal(run(kind.apply(model, as_patcher(kind.make(seed=None)))), alone)


# What is said when they cannot work.


def test_too_many_frames(kind, model, layers):
    with pytest.raises(ValueError, match=rf"{kind.node}: 9 frames at once .* Context Windows or Segment Chain"):
        sample(kind.apply(model, layers), 9)


@pytest.mark.parametrize("kind", ["adapter", "animatediff"], indirect=True)
def test_warns_beyond_the_trained_frames(kind, model, layers, caplog):
    patched = kind.apply(model, layers)
    with caplog.at_level(logging.WARNING):
        sample(patched, 6)
        assert "trained on" not in caplog.text
        sample(patched, 8)
    assert caplog.text.count(f"frame 8 is beyond the 6 frames that the {kind.noun} was trained on") == 1


def test_model_of_another_family(kind, layers):
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="the model Linear has no SDXL UNet"):
        kind.apply(other, layers)
