"""The temporal adapter on a real ComfyUI MODEL, sampled as KSampler does it."""

import copy
import gc
import logging
import weakref

import comfy.cldm.cldm
import comfy.controlnet
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import nodes as core_nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import tiny
from sdxl_anime_video.nodes.temporal_adapter import ApplyTemporalAdapter
from sdxl_anime_video.temporal.clip.contract import NoiseSettings, Smoothing
from sdxl_anime_video.temporal.clip.frames import FrameInfo
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import load_patcher
from sdxl_anime_video.temporal.hosts.comfy.published import FRAMES_KEY
from sdxl_anime_video.temporal.hosts.comfy.sampling.wrapper import record
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.weights.adapter_file import save_adapter

FRAMES, SIZE = 4, 8  # size of a latent's side
POSITIVE, NEGATIVE = tiny.conditioning(seed=1), tiny.conditioning(seed=2)


@pytest.fixture(scope="module")
def model():
    return tiny.comfy_model()


def new_adapter(config=tiny.TINY, seed=5, **keywords):
    sites = {b.path: (b.dim, b.heads) for b in model_blocks(tiny.comfy_model(config))}
    made = TemporalAdapter.create(sites, max_frames=8, **keywords)
    if seed is not None:
        tiny.randomise(made, seed)
    return made


@pytest.fixture(scope="module")
def adapter():
    return new_adapter()


@pytest.fixture(scope="module")
def patcher(adapter, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "a.safetensors"
    save_adapter(adapter, path, {"trained_frames": "6"})
    return load_patcher(path)


def sample(model, frames=FRAMES, cfg=2.0, positive=POSITIVE, negative=NEGATIVE, steps=2):
    """Latents [frames, 4, SIZE, SIZE] by euler, from fixed noise."""
    noise = tiny.latent(frames, SIZE, SIZE)
    blank = torch.zeros_like(noise)
    with torch.inference_mode():  # as ComfyUI runs nodes
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", positive, negative, blank, disable_pbar=True, seed=3
        )


def evaluate(model, sigmas, x=None, cfg=2.0, positive=POSITIVE, negative=NEGATIVE):
    """The denoised prediction for the same x at each of the sigmas."""
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3 if x is None else x
    found = []

    def look(denoise, noise, levels, extra_args=None, **_):
        found.extend(denoise(x, level.repeat(len(x)), **extra_args) for level in levels[:-1])
        return x

    sampler = comfy.samplers.KSAMPLER(look)
    levels = torch.tensor([*sigmas, 0.0])
    with torch.inference_mode():
        comfy.sample.sample_custom(model, x, cfg, sampler, levels, positive, negative, torch.zeros_like(x), seed=0)
    return found


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


# Neutral settings are vanilla ComfyUI, to the bit.


@pytest.mark.parametrize("neutral", ["strength", "untrained", "one frame", "range"])
def test_neutral_is_vanilla(model, patcher, neutral):
    frames = 1 if neutral == "one frame" else FRAMES
    plain = sample(model, frames)
    made = {
        "strength": lambda: apply_adapter(model, patcher, 0.0),
        "untrained": lambda: apply_adapter(model, new_adapter(seed=None)),
        "one frame": lambda: apply_adapter(model, patcher),
        "range": lambda: apply_adapter(model, patcher, 1.0, 0.0, 0.0),
    }[neutral]()
    assert (sample(made, frames) - plain).abs().max() == 0.0
    assert (sample(made.clone(), frames) - plain).abs().max() == 0.0
    comfy.model_management.unload_all_models()
    assert (sample(made, frames) - plain).abs().max() == 0.0
    assert (sample(model, frames) - plain).abs().max() == 0.0


def test_applying_leaves_the_model_as_it_was(model, patcher):
    plain = sample(model)
    before = copy.deepcopy(model.model_options)
    patched = apply_adapter(model, patcher)
    assert model.model_options == before
    change = difference(sample(patched), plain)
    assert change > 1e-2
    assert torch.equal(sample(model), plain)


def test_same_latents_again_and_after_cloning_and_unloading(model, patcher):
    patched = apply_adapter(model, patcher)
    first = sample(patched)
    assert torch.equal(sample(patched), first)
    assert torch.equal(sample(patched.clone().clone()), first)
    comfy.model_management.unload_all_models()
    assert torch.equal(sample(patched), first)


def test_weights_join_memory_management(model, patcher):
    sample(apply_adapter(model, patcher))
    assert any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())
    comfy.model_management.unload_all_models()
    assert not any(one and one.model is patcher.model for one in comfy.model_management.loaded_models())


def test_nothing_keeps_a_dropped_adapter(model):
    adapter = new_adapter()
    patched = apply_adapter(model, adapter)
    sample(patched)
    alive = weakref.ref(adapter)
    comfy.model_management.unload_all_models()
    del patched, adapter
    gc.collect()
    assert alive() is None


def test_patch_is_shared_not_copied(model, patcher):
    patched = apply_adapter(model, patcher)
    (patch,) = patched.model_options["transformer_options"]["patches"]["middle_patch"]
    assert copy.deepcopy(patch) is patch
    assert patch.to(torch.float16) is patch
    assert patched.clone().model_options["transformer_options"]["patches"]["middle_patch"] == [patch]


# The same network as diffusers'.


@pytest.mark.parametrize("config", [tiny.TINY, tiny.ALL_LEVELS], ids=["tiny", "all_levels"])
@pytest.mark.parametrize("frames", [1, 4])
def test_equals_diffusers(config, frames):
    model, adapter = tiny.comfy_model(config), new_adapter(config)
    positive = tiny.conditioning(config, seed=1)
    sigma = 2.5
    x = tiny.latent(frames, SIZE, SIZE) * 3
    (ours,) = evaluate(apply_adapter(model, adapter), [sigma], x, 1.0, positive, positive)

    sampling = model.get_model_object("model_sampling")
    text, pooled = positive[0][0], positive[0][1]["pooled_output"]
    ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])  # core takes the latent's size times 8
    with torch.no_grad():
        noise = TemporalUNet(tiny.diffusers_unet(config), adapter)(
            x / (sigma**2 + 1) ** 0.5,
            sampling.timestep(torch.tensor(sigma)),
            text.expand(frames, -1, -1),
            added_cond_kwargs={"text_embeds": pooled.expand(frames, -1), "time_ids": ids.expand(frames, -1)},
            num_frames=frames,
        ).sample
    error = difference((x - ours) / sigma, noise)
    assert error < 1e-5


# Together with other changes of a MODEL or its conditioning.


def test_cond_and_uncond_batched_or_split(model, patcher):
    patched = apply_adapter(model, patcher)
    batches = []

    def watch(executor, x, *args, **kwargs):
        batches.append(len(x))
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    (together,) = evaluate(patched, [2.5])
    factor = model.model.memory_usage_factor
    model.model.memory_usage_factor = 1e15  # core then finds no room for both
    try:
        (apart,) = evaluate(patched, [2.5])
    finally:
        model.model.memory_usage_factor = factor
    assert batches == [2 * FRAMES, FRAMES, FRAMES]
    change = difference(apart, together)
    assert change < 1e-5


def test_area_conditioning(model, patcher):
    patched = apply_adapter(model, patcher)
    x = tiny.latent(FRAMES, 8, 16) * 3
    size = {"width": 128, "height": 64}
    left = tiny.conditioning(seed=1, area=(8, 8, 0, 0), strength=1.0, **size)  # height, width, top, left of the area
    alone = tiny.conditioning(seed=1, **size)
    (whole,) = evaluate(patched, [2.5], x, 1.0, left, left)
    (crop,) = evaluate(patched, [2.5], x[..., :8].contiguous(), 1.0, alone, alone)
    error = difference(whole[..., :8], crop)
    assert error < 1e-5
    both = POSITIVE + tiny.conditioning(seed=4, area=(8, 4, 0, 4), strength=1.0)
    change = difference(sample(patched, positive=both), sample(model, positive=both))
    assert change > 1e-3
    neutral = apply_adapter(model, new_adapter(seed=None))
    assert torch.equal(sample(neutral, positive=both), sample(model, positive=both))


def test_two_adapters(model, adapter):
    other = new_adapter(seed=6)
    plain = sample(model)
    both = sample(apply_adapter(apply_adapter(model, adapter), other))
    one, two = (sample(apply_adapter(model, made)) for made in (adapter, other))
    results = [plain, both, one, two]
    assert all(difference(a, b) > 1e-3 for a in results for b in results if a is not b)
    neutral = apply_adapter(apply_adapter(model, adapter), other, 0.0)
    assert torch.equal(sample(neutral), one)
    silenced = apply_adapter(apply_adapter(model, adapter, 1.0, 0.0, 0.0), other)
    assert torch.equal(sample(silenced), two)
    halves = apply_adapter(apply_adapter(model, adapter, 0.5), adapter, 0.5)
    change = difference(sample(halves), plain)
    assert change > 1e-3


def test_lora_below(model, patcher):
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    name = next(
        name for name, key in keys.items() if name.startswith("lora_unet_") and key.endswith("attn1.to_q.weight")
    )
    lora = {f"{name}.lora_up.weight": torch.randn(128, 4), f"{name}.lora_down.weight": torch.randn(4, 128)}

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)[0]

    below, above = sample(apply_adapter(with_lora(model), patcher)), sample(with_lora(apply_adapter(model, patcher)))
    assert torch.equal(below, above)
    change = difference(below, sample(apply_adapter(model, patcher)))
    assert change > 1e-3
    change = difference(below, sample(with_lora(model)))
    assert change > 1e-3
    assert torch.equal(sample(apply_adapter(with_lora(model), patcher, 0.0)), sample(with_lora(model)))


def tiny_controlnet(model):
    config = {**model.model.model_config.unet_config, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    for name in ("out_channels", "transformer_depth_output"):
        config.pop(name)
    network = comfy.cldm.cldm.ControlNet(**config, device="cpu")
    tiny.randomise(network, seed=7)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def test_controlnet_beside(model, patcher):
    hints = torch.rand(FRAMES, 8 * SIZE, 8 * SIZE, 3)
    apply_controlnet = core_nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply_controlnet(POSITIVE, NEGATIVE, tiny_controlnet(model), hints, 0.5, 0.0, 1.0)
    controls = []

    def watch(executor, x, t, context, y, control, *args, **kwargs):
        controls.append([value.clone() for values in control.values() for value in values if value is not None])
        return executor(x, t, context, y, control, *args, **kwargs)

    def run(model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
        return evaluate(model, [2.5], positive=positive, negative=negative)[0]

    alone, beside = run(model), run(apply_adapter(model, patcher))
    change = difference(beside, alone)
    assert change > 1e-3
    assert len(controls[0]) > 3
    assert all(torch.equal(a, b) for a, b in zip(*controls, strict=True))  # the ControlNet itself has no adapter
    assert torch.equal(run(apply_adapter(model, new_adapter(seed=None))), alone)


def test_beside_the_frame_contract_in_any_order(model, patcher):
    steps = [
        lambda m: apply_adapter(m, patcher),
        lambda m: record(m, lambda c: c.with_noise(NoiseSettings("shared", 0.5))),
        lambda m: record(m, lambda c: c.with_smoothing(Smoothing(0.2))),
    ]
    results = []
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        patched = model
        for i in order:
            patched = steps[i](patched)
        results.append(sample(patched))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# Decisions made once per call of the UNet.


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.3, 0.7), (0.0, 0.5), (0.5, 1.0)])
def test_range_changes_the_steps_inside_only(model, patcher, start, end):
    percents = [0.1, 0.29, 0.31, 0.45, 0.55, 0.69, 0.71, 0.9]
    sampling = model.get_model_object("model_sampling")
    sigmas = [sampling.percent_to_sigma(percent) for percent in percents]
    plain = evaluate(model, sigmas)
    ours = evaluate(apply_adapter(model, patcher, 1.0, start, end), sigmas)
    changed = [not torch.equal(a, b) for a, b in zip(ours, plain, strict=True)]
    assert changed == [start <= percent <= end for percent in percents]


def publish(model, index):
    """The MODEL with other frames published under it than those of the batch."""
    model = model.clone()
    index = torch.tensor(index)
    info = FrameInfo(index, int(index.max()) + 1, torch.zeros(len(index), dtype=torch.bool))

    def tell(executor, base, conds, x, timestep, model_options):
        told = {**model_options["transformer_options"], FRAMES_KEY: info}
        return executor(base, conds, x, timestep, {**model_options, "transformer_options": told})

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "tell", tell)
    return model


def test_positions_follow_the_published_frames(model, patcher):
    patched = apply_adapter(model, patcher)
    (plain,) = evaluate(patched, [2.5])
    assert torch.equal(evaluate(publish(patched, [40, 41, 42, 43]), [2.5])[0], plain)
    assert torch.equal(evaluate(publish(patched, [0, 20, 40, 60]), [2.5])[0], plain)  # too far apart: by order
    assert torch.equal(evaluate(publish(patched, [6, 7, 0, 1]), [2.5])[0], plain)  # round the end of a loop
    change = difference(evaluate(publish(patched, [0, 2, 4, 6]), [2.5])[0], plain)
    assert change > 1e-4


def test_too_many_frames(model, patcher):
    with pytest.raises(ValueError, match=r"9 frames at once .* max_frames 8.* Context Windows or Segment Chain"):
        sample(apply_adapter(model, patcher), frames=9)


def test_warns_beyond_the_trained_frames(model, patcher, caplog):
    patched = apply_adapter(model, patcher)
    with caplog.at_level(logging.WARNING):
        sample(patched, frames=6)
        assert "trained" not in caplog.text
        sample(patched, frames=8)
    assert caplog.text.count("frame 8 is beyond the 6 frames that the adapter was trained on") == 1


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -11.0])
def test_strength_that_cannot_be(model, patcher, strength):
    with pytest.raises(ValueError, match=f"Apply Temporal Adapter: strength is {strength:g}; it must lie between -10"):
        ApplyTemporalAdapter.execute(model, patcher, strength, 0.0, 1.0)


def test_misfit_names_the_model_and_every_site(model):
    with pytest.raises(ValueError) as caught:
        apply_adapter(model, new_adapter(tiny.ALL_LEVELS))
    message = str(caught.value)
    assert "sites of the model SDXL" in message
    assert "missing in the adapter: 2, such as down_blocks.2.attentions.0.transformer_blocks.0" in message
    assert "missing in the model: 2, such as down_blocks.0.attentions.0.transformer_blocks.0" in message


def test_model_of_another_family(adapter):
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="the model Linear has no SDXL UNet"):
        apply_adapter(other, adapter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_file_in_half_precision(model, adapter, tmp_path, dtype):
    half = copy.deepcopy(adapter).to(dtype)
    save_adapter(half, tmp_path / "half.safetensors")
    (exact,) = evaluate(apply_adapter(model, adapter), [2.5])
    (ours,) = evaluate(apply_adapter(model, load_patcher(tmp_path / "half.safetensors")), [2.5])
    assert 0 < difference(ours, exact) < 1e-2
