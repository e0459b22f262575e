"""Motion modules on a real ComfyUI MODEL: their places, their arithmetic, and that nothing remains after a run."""

import gc
import logging
import weakref

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import motion
import tiny
from sdxl_anime_video.temporal.hosts.comfy.layers.in_unet import CrossFrameNorm, MotionLayer
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher, load_patcher
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet
from sdxl_anime_video.temporal.weights.motion.file import save_motion_module

FRAMES, SIZE = 4, 8  # size of a latent's side
CONFIG = tiny.ALL_LEVELS
POSITIVE, NEGATIVE = tiny.conditioning(CONFIG, seed=1), tiny.conditioning(CONFIG, seed=2)
# SDXL's own: two layers a level, the finest without attention
SDXL_SHAPE = tiny.TinyConfig(widths=(64, 128, 128), depth=(0, 1, 1), res_blocks=2)


@pytest.fixture(scope="module")
def model():
    return tiny.comfy_model(CONFIG)


@pytest.fixture(scope="module")
def plain(model):
    """Latents without a motion module."""
    return sample(model)


@pytest.fixture(scope="module", params=["animatediff", "hotshot"])
def patcher(request):
    return as_patcher(motion.module(request.param))


def sample(model, frames=FRAMES, steps=2):
    """Latents [frames, 4, SIZE, SIZE] by euler, from fixed noise, as KSampler does it."""
    noise = tiny.latent(frames, SIZE, SIZE)
    blank = torch.zeros_like(noise)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 2.0, "euler", "normal", POSITIVE, NEGATIVE, blank, disable_pbar=True, seed=3
        )


def evaluate(model, sigmas, x, positive=POSITIVE):
    """The denoised prediction for the same x at each of the sigmas, without CFG."""
    found = []

    def look(denoise, noise, levels, extra_args=None, **_):
        found.extend(denoise(x, level.repeat(len(x)), **extra_args) for level in levels[:-1])
        return x

    levels = torch.tensor([*sigmas, 0.0])
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model, x, 1.0, comfy.samplers.KSAMPLER(look), levels, positive, positive, torch.zeros_like(x), seed=0
        )
    return found


def applied(model, module, *args, beta_schedule="sdxl", **keywords):
    return apply_motion_module(model, module, *args, beta_schedule=beta_schedule, **keywords)


def state_of(model):
    """Everything that could change in a UNet: modules, the dictionaries that hold them, and hooks."""
    return [
        (name, id(m), id(m._modules), list(m._modules), {k: len(v) for k, v in vars(m).items() if k.endswith("_hooks")})
        for name, m in model.model.named_modules()
    ]


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


# The same network as diffusers'.


@pytest.mark.parametrize("kind", ["animatediff", "hotshot"])
@pytest.mark.parametrize("frames", [1, 4])
def test_equals_diffusers(kind, frames):
    module = motion.module(kind, SDXL_SHAPE, mid=True)
    model = tiny.comfy_model(SDXL_SHAPE)
    positive = tiny.conditioning(SDXL_SHAPE, seed=1)
    sigma = 2.5
    x = tiny.latent(frames, SIZE, SIZE) * 3
    (ours,) = evaluate(applied(model, module, 0.8), [sigma], x, positive)

    sampling = model.get_model_object("model_sampling")
    text, pooled = positive[0][0], positive[0][1]["pooled_output"]
    ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])  # core takes the latent's size times 8

    def by_diffusers(num_frames):
        with torch.no_grad():
            return TemporalUNet(tiny.diffusers_unet(SDXL_SHAPE), module, 0.8)(
                x / (sigma**2 + 1) ** 0.5,
                sampling.timestep(torch.tensor(sigma)),
                text.expand(frames, -1, -1),
                added_cond_kwargs={"text_embeds": pooled.expand(frames, -1), "time_ids": ids.expand(frames, -1)},
                num_frames=num_frames,
            ).sample

    noise = (x - ours) / sigma
    error = difference(noise, by_diffusers(frames))
    assert error < 1e-5
    assert frames == 1 or difference(noise, by_diffusers(1)) > 0.1


def test_layers_stand_where_the_authors_have_them():
    seen = {}

    def look(executor, *args, **kwargs):
        named = executor.class_obj.named_modules()
        seen.update({name: layer for name, layer in named if isinstance(layer, (MotionLayer, CrossFrameNorm))})
        return executor(*args, **kwargs)

    model = applied(tiny.comfy_model(SDXL_SHAPE), motion.module("hotshot", SDXL_SHAPE, mid=True))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    evaluate(model, [2.5], tiny.latent(FRAMES, SIZE, SIZE), tiny.conditioning(SDXL_SHAPE))
    layers = [name for name, layer in seen.items() if isinstance(layer, MotionLayer)]
    assert layers == [
        *(f"input_blocks.{place}" for place in ("1.1", "2.1", "4.2", "5.2", "7.2", "8.2")),
        "middle_block.2",
        *(f"output_blocks.{place}" for place in ("0.2", "1.2", "2.2", "3.2", "4.2", "5.2", "6.1", "7.1", "8.1")),
    ]
    norms = [name for name, layer in seen.items() if isinstance(layer, CrossFrameNorm)]
    assert len(norms) == 2 * (6 + 2 + 9) + 1
    assert norms[-1] == "out.0"


# Neutral settings are vanilla ComfyUI, to the bit.


@pytest.mark.parametrize("neutral", ["strength", "silent", "one frame", "range", "blocks"])
def test_neutral_is_vanilla(model, plain, neutral):
    frames = 1 if neutral == "one frame" else FRAMES
    expected = sample(model, 1) if frames == 1 else plain
    module = motion.module("hotshot")  # its norms would change the result
    made = {
        "strength": lambda: applied(model, module, 0.0),
        "silent": lambda: applied(model, motion.module(seed=None)),
        "one frame": lambda: applied(model, module),
        "range": lambda: applied(model, module, 1.0, 0.0, 0.0),
        "blocks": lambda: applied(model, module, factors={"down": 0.0, "up": 0.0}),
    }[neutral]()
    assert (sample(made.clone(), frames) - expected).abs().max() == 0.0


def test_it_moves_the_clip_and_leaves_the_model_as_it_was(model, patcher, plain):
    before = state_of(model)
    patched = applied(model, patcher)
    moved = sample(patched)
    assert difference(moved, plain) > 0.05
    assert state_of(model) == before
    comfy.model_management.unload_all_models()
    assert state_of(model) == before
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(patched.clone().clone()), moved)


@pytest.mark.parametrize("fault", [RuntimeError, comfy.model_management.InterruptProcessingException])
def test_a_step_that_breaks_off_leaves_nothing(model, plain, fault):
    module = motion.module("hotshot")
    before = state_of(model)
    broken = applied(model, module)
    calls = []

    def fail(x, options):
        calls.append(sum(isinstance(layer, MotionLayer) for layer in model.model.modules()))
        if len(calls) == 9:  # inside of the second step
            raise fault
        return x

    broken.set_model_patch(fail, "middle_patch")
    with pytest.raises(fault):
        sample(broken)
    assert calls == [len(module.sites)] * 9
    assert state_of(model) == before
    assert torch.equal(sample(model), plain)


def test_two_prompts_with_different_modules(model, plain):
    before = state_of(model)
    made = [applied(model, motion.module(kind, seed=6)) for kind in ("animatediff", "hotshot")]
    first = [sample(each) for each in made]
    assert difference(*first) > 1e-2
    assert all(torch.equal(sample(each), once) for each, once in zip(made, first, strict=True))
    assert torch.equal(sample(model), plain)
    assert state_of(model) == before


def test_two_modules_on_one_model(model):
    first, second = motion.module("hotshot"), motion.module("animatediff", seed=6)
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    results = [
        evaluate(made, [2.5], x)[0]
        for made in (applied(model, first), applied(model, second), applied(applied(model, first), second))
    ]
    assert all(difference(a, b) > 1e-2 for a in results for b in results if a is not b)
    silent = applied(applied(model, first), motion.module(seed=None))
    assert torch.equal(evaluate(silent, [2.5], x)[0], results[0])


def test_weights_join_memory_management(model, tmp_path):
    save_motion_module(motion.module(), tmp_path / "m.safetensors")
    patcher = load_patcher(tmp_path / "m.safetensors")
    sample(applied(model, patcher))
    assert any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())
    comfy.model_management.unload_all_models()
    assert not any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())
    alive = weakref.ref(patcher.model)
    del patcher
    gc.collect()
    assert alive() is None


def test_strengths_of_the_blocks_add_up(model):
    module = motion.module()
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    whole, half, down, up = (
        evaluate(applied(model, module, strength, factors=factors), [2.5], x)[0]
        for strength, factors in ((1.0, None), (0.5, None), (1.0, {"up": 0.0}), (1.0, {"down": 0.0}))
    )
    assert all(difference(a, b) > 1e-3 for a in (whole, half, down, up) for b in (whole, half, down, up) if a is not b)
    same = evaluate(applied(model, module, 2.0, factors={"down": 0.25, "up": 0.25}), [2.5], x)[0]
    assert difference(same, half) < 1e-6


@pytest.mark.parametrize(("start", "end"), [(0.3, 0.7), (0.5, 1.0)])
def test_range_changes_the_steps_inside_only(model, start, end):
    module = motion.module("hotshot")
    percents = [0.1, 0.31, 0.69, 0.9]
    sampling = model.get_model_object("model_sampling")
    sigmas = [sampling.percent_to_sigma(percent) for percent in percents]
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3
    ours, vanilla = evaluate(applied(model, module, 1.0, start, end), sigmas, x), evaluate(model, sigmas, x)
    changed = [not torch.equal(a, b) for a, b in zip(ours, vanilla, strict=True)]
    assert changed == [start <= percent <= end for percent in percents]


# Errors and warnings: a module that cannot work, or has no effect.


def test_too_many_frames(model):
    module = motion.module()
    with pytest.raises(ValueError, match=r"Apply Motion Module: 9 frames at once .* Context Windows or Segment Chain"):
        sample(applied(model, module), frames=9)


def test_warns_beyond_the_trained_frames(model, caplog):
    patched = applied(model, motion.module(metadata={"trained_frames": "6"}))
    sample(patched, 6, steps=1)
    assert "trained on" not in caplog.text
    sample(patched, 7, steps=2)
    assert caplog.text.count("frame 7 is beyond the 6 frames that the motion module was trained on") == 1


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
        applied(model, motion.module(seed=None if "projection" in reason else 5), *arguments, factors=factors)
    assert f"Apply Motion Module: {reason}" in caplog.text
    assert "no effect" in caplog.text
    caplog.clear()
    applied(model, motion.module())
    assert caplog.text == ""


def test_warns_where_a_node_behind_it_replaces_its_noise_levels(model, caplog):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from sdxl_anime_video.temporal.hosts.comfy.presets import with_lcm_sampling

    def by_core(model):
        return ModelSamplingDiscrete().patch(model, "lcm", False)[0]

    module = motion.module()
    for warned, made in (
        (True, by_core(apply_motion_module(model, module))),
        (False, apply_motion_module(by_core(model), module)),
        (False, with_lcm_sampling(apply_motion_module(model, module))),
        (False, by_core(applied(model, module))),
        (False, by_core(apply_motion_module(model, motion.module("hotshot")))),  # trained on the model's own
    ):
        caplog.clear()
        sample(made, steps=1)
        assert ("Apply Motion Module: a node behind it" in caplog.text) == warned


def test_misfit_names_the_model_and_every_site(model):
    with pytest.raises(ValueError) as caught:
        applied(model, motion.module(config=SDXL_SHAPE))
    message = str(caught.value)
    assert "sites of the model SDXL" in message
    assert "missing in the model: 9, such as down_blocks.0.motion_modules.1" in message


def test_model_of_another_family():
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="the model Linear has no SDXL UNet"):
        applied(other, motion.module())
