"""Motion modules on a real ComfyUI MODEL: their places, their arithmetic, and that nothing remains after a run."""

import logging

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import clip_sampling
import motion
import tiny
from clip_sampling import CONFIG, SIZE, difference, diffusers_difference, evaluate, ksample, modules_of
from sdxl_anime_video.temporal.hosts.comfy.layers.in_unet import CrossFrameNorm, MotionLayer
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module

FRAMES = 4
# SDXL's own: two layers a level, the finest without attention
SDXL_SHAPE = tiny.TinyConfig(widths=(64, 128, 128), depth=(0, 1, 1), res_blocks=2)


@pytest.fixture(scope="module")
def model():
    return clip_sampling.model()


@pytest.fixture(scope="module")
def plain(model):
    """Latents without a motion module."""
    return sample(model)


def sample(model, frames=FRAMES, steps=2):
    return ksample(model, frames=frames, steps=steps)


def applied(model, module, *args, beta_schedule="sdxl", **keywords):
    return apply_motion_module(model, module, *args, beta_schedule=beta_schedule, **keywords)


# The same network as diffusers'.


@pytest.mark.parametrize("kind", ["animatediff", "hotshot"])
@pytest.mark.parametrize("frames", [1, 4])
def test_equals_diffusers(kind, frames):
    module = motion.module(kind, SDXL_SHAPE, mid=True)
    settings = SDXL_SHAPE, frames, lambda model: applied(model, module, 0.8), module, 0.8
    assert diffusers_difference(*settings) < 1e-5
    assert frames == 1 or diffusers_difference(*settings, clips=frames) > 0.1


def test_layers_stand_where_the_authors_have_them():
    seen = {}

    def look(executor, *args, **kwargs):
        named = executor.class_obj.named_modules()
        seen.update({name: layer for name, layer in named if isinstance(layer, (MotionLayer, CrossFrameNorm))})
        return executor(*args, **kwargs)

    model = applied(tiny.comfy_model(SDXL_SHAPE), motion.module("hotshot", SDXL_SHAPE, mid=True))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    evaluate(model, [2.5], tiny.latent(FRAMES, 8, 8), 1.0, tiny.conditioning(SDXL_SHAPE))
    layers = [name for name, layer in seen.items() if isinstance(layer, MotionLayer)]
    assert layers == [
        *(f"input_blocks.{place}" for place in ("1.1", "2.1", "4.2", "5.2", "7.2", "8.2")),
        "middle_block.2",
        *(f"output_blocks.{place}" for place in ("0.2", "1.2", "2.2", "3.2", "4.2", "5.2", "6.1", "7.1", "8.1")),
    ]
    norms = [name for name, layer in seen.items() if isinstance(layer, CrossFrameNorm)]
    assert len(norms) == 2 * (6 + 2 + 9) + 1
    assert norms[-1] == "out.0"


def test_strength_zero_of_all_blocks_is_vanilla(model, plain):
    module = motion.module("hotshot", CONFIG)  # whose norms would tell
    assert torch.equal(sample(applied(model, module, factors={"down": 0.0, "up": 0.0})), plain)


@pytest.mark.parametrize("fault", [RuntimeError, comfy.model_management.InterruptProcessingException])
def test_a_step_that_breaks_off_leaves_nothing(model, plain, fault):
    module = motion.module("hotshot", CONFIG)
    before = modules_of(model)
    broken = applied(model, module)
    calls = []

    def fail(x, options):
        calls.append(sum(isinstance(layer, MotionLayer) for layer in model.model.modules()))
        if len(calls) == 6:  # inside of the second step
            raise fault
        return x

    broken.set_model_patch(fail, "middle_patch")
    with pytest.raises(fault):
        sample(broken)
    assert calls == [len(module.sites)] * 6
    assert modules_of(model) == before
    assert torch.equal(sample(model), plain)


def test_two_prompts_with_different_modules(model, plain):
    before = modules_of(model)
    made = [applied(model, motion.module(kind, CONFIG, seed=6)) for kind in ("animatediff", "hotshot")]
    first = [sample(each) for each in made]
    assert difference(*first) > 1e-2
    assert all(torch.equal(sample(each), once) for each, once in zip(made, first, strict=True))
    assert torch.equal(sample(model), plain)
    assert modules_of(model) == before


def test_two_modules_on_one_model(model):
    first, second = motion.module("hotshot", CONFIG), motion.module("animatediff", CONFIG, seed=6)
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    results = [
        evaluate(made, [2.5], x)[0]
        for made in (applied(model, first), applied(model, second), applied(applied(model, first), second))
    ]
    assert all(difference(a, b) > 1e-2 for a in results for b in results if a is not b)
    silent = applied(applied(model, first), motion.module(config=CONFIG, seed=None))
    assert torch.equal(evaluate(silent, [2.5], x)[0], results[0])


def test_strengths_of_the_blocks_add_up(model):
    module = motion.module(config=CONFIG)
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    whole, half, down, up = (
        evaluate(applied(model, module, strength, factors=factors), [2.5], x)[0]
        for strength, factors in ((1.0, None), (0.5, None), (1.0, {"up": 0.0}), (1.0, {"down": 0.0}))
    )
    assert all(difference(a, b) > 1e-3 for a in (whole, half, down, up) for b in (whole, half, down, up) if a is not b)
    same = evaluate(applied(model, module, 2.0, factors={"down": 0.25, "up": 0.25}), [2.5], x)[0]
    assert difference(same, half) < 1e-6


# Errors and warnings: a module that cannot work, or has no effect.


@pytest.mark.parametrize(
    ("arguments", "factors", "reason"),
    [
        ((0.0,), None, "strength is 0"),
        ((1.0, 0.4, 0.4), None, "nothing lies between"),
        ((), {"down": 0.0, "up": 0.0}, "the strengths of all blocks that it has are 0"),
        ((), None, "every last projection is zero"),
    ],
)
def test_warns_where_it_has_no_effect(model, caplog, arguments, factors, reason):
    with caplog.at_level(logging.WARNING):
        applied(
            model, motion.module(config=CONFIG, seed=None if "projection" in reason else 5), *arguments, factors=factors
        )
    assert f"Apply Motion Module: {reason}" in caplog.text
    assert "no effect" in caplog.text
    caplog.clear()
    applied(model, motion.module(config=CONFIG))
    assert caplog.text == ""


def test_warns_where_a_node_behind_it_replaces_its_noise_levels(model, caplog):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from sdxl_anime_video.temporal.hosts.comfy.presets import with_lcm_sampling

    def by_core(model):
        return ModelSamplingDiscrete().patch(model, "lcm", False)[0]

    module = motion.module(config=CONFIG)
    for warned, made in (
        (True, by_core(apply_motion_module(model, module))),
        (False, apply_motion_module(by_core(model), module)),
        (False, with_lcm_sampling(apply_motion_module(model, module))),
        (False, by_core(applied(model, module))),
        (False, by_core(apply_motion_module(model, motion.module("hotshot", CONFIG)))),  # trained on the model's own
    ):
        caplog.clear()
        sample(made, steps=1)
        assert ("Apply Motion Module: a node behind it" in caplog.text) == warned


def test_misfit_names_the_model_and_every_site():
    with pytest.raises(ValueError) as caught:
        applied(tiny.comfy_model(tiny.ALL_LEVELS), motion.module(config=SDXL_SHAPE))
    message = str(caught.value)
    assert "sites of the model SDXL" in message
    assert "missing in the model: 9, such as down_blocks.0.motion_modules.1" in message
