"""The temporal adapter on a real ComfyUI MODEL, sampled as KSampler does it."""

import copy

import pytest
import torch
from comfy.patcher_extension import WrappersMP

import clip_sampling
import tiny
from clip_sampling import (
    CONFIG,
    POSITIVE,
    SIZE,
    correlated,
    difference,
    diffusers_difference,
    ksample,
    smoothed,
)
from sdxl_anime_video.nodes.temporal_adapter import ApplyTemporalAdapter
from sdxl_anime_video.temporal.clip.frames import FrameInfo
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import load_patcher
from sdxl_anime_video.temporal.hosts.comfy.published import FRAMES_KEY
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.weights.adapter_file import save_adapter

FRAMES = 4


@pytest.fixture(scope="module")
def model():
    return clip_sampling.model()


def new_adapter(config=CONFIG, seed=5, **keywords):
    sites = {b.path: (b.dim, b.heads) for b in model_blocks(tiny.comfy_model(config))}
    made = TemporalAdapter.create(sites, max_frames=8, **keywords).requires_grad_(False)
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


def sample(model, frames=FRAMES, **settings):
    return ksample(model, frames=frames, steps=2, **settings)


def evaluate(model, sigmas, x=None, *settings):
    x = tiny.latent(FRAMES, SIZE, SIZE) * 3 if x is None else x
    return clip_sampling.evaluate(model, sigmas, x, *settings)


# Neutral settings are vanilla ComfyUI, to the bit.


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
    adapter = new_adapter(config)
    assert diffusers_difference(config, frames, lambda model: apply_adapter(model, adapter), adapter) < 1e-5


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
    assert difference(apart, together) < 1e-5


def test_area_conditioning(model, patcher):
    patched = apply_adapter(model, patcher)
    x = tiny.latent(FRAMES, 8, 16) * 3
    size = {"width": 128, "height": 64}
    left = tiny.conditioning(CONFIG, area=(8, 8, 0, 0), strength=1.0, **size)  # height, width, top, left of the area
    alone = tiny.conditioning(CONFIG, **size)
    (whole,) = evaluate(patched, [2.5], x, 1.0, left, left)
    (crop,) = evaluate(patched, [2.5], x[..., :8].contiguous(), 1.0, alone, alone)
    assert difference(whole[..., :8], crop) < 1e-5
    both = POSITIVE + tiny.conditioning(CONFIG, seed=4, area=(SIZE, SIZE // 2, 0, SIZE // 2), strength=1.0)
    assert difference(sample(patched, positive=both), sample(model, positive=both)) > 1e-3
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
    assert difference(sample(halves), plain) > 1e-3


def test_beside_the_frame_contract_in_any_order(model, patcher):
    steps = [lambda m: apply_adapter(m, patcher), correlated, smoothed]
    results = []
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        patched = model
        for i in order:
            patched = steps[i](patched)
        results.append(sample(patched))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# Decisions made once per call of the UNet.


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
    assert difference(evaluate(publish(patched, [0, 2, 4, 6]), [2.5])[0], plain) > 1e-4


def test_too_many_frames(model, patcher):
    with pytest.raises(ValueError, match=r"9 frames at once .* max_frames 8.* Context Windows or Segment Chain"):
        sample(apply_adapter(model, patcher), frames=9)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -11.0])
def test_strength_that_cannot_be(model, patcher, strength):
    with pytest.raises(ValueError, match=f"Apply Temporal Adapter: strength is {strength:g}; it must lie between -10"):
        ApplyTemporalAdapter.execute(model, patcher, strength, 0.0, 1.0)


def test_misfit_names_the_model_and_every_site():
    with pytest.raises(ValueError) as caught:
        apply_adapter(tiny.comfy_model(), new_adapter(tiny.ALL_LEVELS))
    message = str(caught.value)
    assert "sites of the model SDXL" in message
    assert "missing in the adapter: 2, such as down_blocks.2.attentions.0.transformer_blocks.0" in message
    assert "missing in the model: 2, such as down_blocks.0.attentions.0.transformer_blocks.0" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_file_in_half_precision(model, adapter, tmp_path, dtype):
    half = copy.deepcopy(adapter).to(dtype)
    save_adapter(half, tmp_path / "half.safetensors")
    (exact,) = evaluate(apply_adapter(model, adapter), [2.5])
    (ours,) = evaluate(apply_adapter(model, load_patcher(tmp_path / "half.safetensors")), [2.5])
    assert 0 < difference(ours, exact) < 1e-2
