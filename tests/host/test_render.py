"""`sdxl-anime-video render` against ComfyUI's nodes with the same settings and weights.

Tolerances: latents 1e-4 relative in norm, frames one level of 255.
"""

from dataclasses import replace
from functools import cache

import comfy.sample
import nodes as core
import numpy as np
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import tiny
from clip_sampling import anchored, chained
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.media.pixels import to_uint8
from sdxl_anime_video.nodes.best_hq import BestHQSampler, BestHQSigmas
from sdxl_anime_video.nodes.noise import CorrelatedNoise
from sdxl_anime_video.nodes.prompt_schedule import PromptSchedule
from sdxl_anime_video.nodes.smoothing import FrameSmoothing
from sdxl_anime_video.rendering.config import RenderConfig
from sdxl_anime_video.rendering.render import decoded, initial_noise, sample
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base, sigmas_of
from sdxl_anime_video.temporal.hosts.diffusers.unet import unet_sites
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter

PROMPT = "girl, blue hair, red dress, sunset, run"
SMALL = {"output": "clip.mp4", "width": 64, "height": 80, "frames": 4, "steps": 3, "cfg": 3.0, "seed": 7}
SHARED = {"noise_mode": "shared", "noise_correlation": 0.6}


@pytest.fixture(scope="module")
def toon():
    return load_toon_comfy()


@pytest.fixture(scope="module")
def base():
    return load_base("toon")


@pytest.fixture(scope="module")
def adapter(base):
    """Random values: what it adds is large."""
    made = TemporalAdapter.create(unet_sites(base.unet, TemporalAdapter), max_frames=8)
    tiny.randomise(made, seed=3)
    return made.requires_grad_(False)


_patcher = cache(as_patcher)


def comfy_latents(toon, config, adapter=None):
    """The nodes of the same settings, wired as in the shared graphs; latents in the model's scale."""
    model, clip, _ = toon
    noise = config.noise_mode, config.noise_correlation, config.noise_window, config.noise_overlap
    model = CorrelatedNoise.execute(model, *noise).result[0]
    if adapter is not None:
        ends = config.adapter_start_percent, config.adapter_end_percent
        model = apply_adapter(model, _patcher(adapter), config.adapter_strength, *ends)
    if config.frame_smoothing:
        ends = config.frame_smoothing_start_percent, config.frame_smoothing_end_percent
        model = FrameSmoothing.execute(model, config.frame_smoothing, *ends).result[0]
    if config.segment_frames:
        carry = config.segment_carry, config.segment_carry_denoise
        model = chained(model, config.segment_frames, config.segment_overlap, *carry)
    if config.anchor_strength:
        ends = config.anchor_start_percent, config.anchor_end_percent
        places = {"positions": config.anchor_positions}
        model = anchored(model, config.anchor_every, config.anchor_strength, config.anchor_band, *ends, **places)
    positive = PromptSchedule.execute(
        clip,
        config.prompt,
        config.frames,
        config.interpolation,
        segment_frames=(config.segment_frames or 0) * config.prompts_by_segment,
        overlap=config.overlap,
    ).result[0]
    negative = core.CLIPTextEncode().encode(clip, config.negative)[0]
    sampler = BestHQSampler.execute(config.smoothing).result[0]
    sigmas = BestHQSigmas.execute(model, config.steps).result[0]
    empty = {"samples": torch.zeros(config.frames, 4, config.height // 8, config.width // 8)}
    found = SamplerCustom.execute(
        model, True, config.seed, config.cfg, positive, negative, sampler, sigmas, empty
    ).result[0]["samples"]
    return model.get_model_object("latent_format").process_in(found)


def rendered(base, config, adapter=None):
    return sample(config, base, adapter, lambda *_: None)


def relative(value, expected):
    return float((value - expected).norm() / expected.norm())


PLAIN = {
    "independent": {"noise_correlation": 0.0, "negative": "night, snow"},
    "shared, no guidance": {**SHARED, "cfg": 1.0},
    "BestHQ's smoothing": {**SHARED, "smoothing": 0.2},
}
ADAPTED = {
    "shared": SHARED,
    "additive": {"noise_mode": "additive", "noise_correlation": 0.9991},
    "progressive, range": {
        "noise_mode": "progressive",
        "noise_correlation": 0.5,
        "adapter_strength": 0.7,
        "adapter_start_percent": 0.2,
        "adapter_end_percent": 0.8,
    },
    "freenoise": {"noise_mode": "freenoise", "noise_correlation": 0.8, "noise_window": 3, "noise_overlap": 1},
    "frame smoothing": {**SHARED, "frame_smoothing": 0.3, "frame_smoothing_end_percent": 0.4},
    "prompts": {**SHARED, "prompt": "girl, blue hair,\n0: run\n50%: jump\n-1: wave", "interpolation": "slerp"},
    "segments": {**SHARED, "frames": 6, "segment_frames": 4, "segment_overlap": 2},
    "last frame": {**SHARED, "frames": 7, "segment_frames": 3, "segment_carry": "last_frame"},
    "last frame, all steps": {
        **SHARED,
        "frames": 6,
        "segment_frames": 3,
        "segment_carry": "last_frame",
        "segment_carry_denoise": 1.0,
        "prompts_by_segment": True,
        "prompt": "0: run\n3: jump",
    },
    "anchor": {**SHARED, "anchor_strength": 0.7, "anchor_every": 2, "anchor_end_percent": 0.6},
    "anchor, segments": {
        **SHARED,
        "frames": 6,
        "segment_frames": 4,
        "segment_overlap": 1,
        "anchor_strength": 0.5,
        "anchor_band": "all",
        "anchor_positions": "2, -1",
    },
    "prompts by segment": {
        **SHARED,
        "frames": 7,
        "segment_frames": 4,
        "segment_overlap": 1,
        "prompts_by_segment": True,
        "prompt": "0: run\n4: jump",
        "frame_smoothing": 0.2,
    },
}
CASES = {
    **{name: (case, False) for name, case in PLAIN.items()},
    **{name: (case, True) for name, case in ADAPTED.items()},
}


@pytest.mark.parametrize("settings, adapted", CASES.values(), ids=CASES)
def test_latents_equal_comfyuis(toon, base, adapter, settings, adapted):
    config = RenderConfig(**{**SMALL, "prompt": PROMPT, **settings})
    which = adapter if adapted else None
    expected = comfy_latents(toon, config, which)
    found = rendered(base, config, which)
    assert expected.shape == found.shape and expected.std() > 0.1
    assert relative(found, expected) < 1e-4


def test_every_setting_counts(base, adapter):
    """The comparisons above compare different clips."""
    plain = rendered(base, RenderConfig(**SMALL, prompt=PROMPT, **SHARED))
    same = rendered(base, RenderConfig(**SMALL, prompt=PROMPT, **SHARED), adapter)
    assert relative(same, plain) > 0.05
    for case in PLAIN.values():
        assert relative(rendered(base, RenderConfig(**{**SMALL, "prompt": PROMPT, **case})), plain) > 0.005
    for name in ("progressive, range", "frame smoothing", "prompts", "anchor"):
        config = RenderConfig(**{**SMALL, "prompt": PROMPT, **ADAPTED[name]})
        assert relative(rendered(base, config, adapter), same) > 0.005, name


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_frames_equal_comfyuis(toon, base, adapter, adapted):
    config = RenderConfig(**SMALL, prompt=PROMPT, **SHARED)
    which = adapter if adapted else None
    latents = comfy_latents(toon, config, which)
    outside = toon[0].get_model_object("latent_format").process_out(latents)
    expected = [to_uint8(picture) for picture in core.VAEDecode().decode(toon[2], {"samples": outside})[0]]
    found = [to_uint8(picture) for picture in decoded(base, rendered(base, config, which))]
    difference = np.abs(np.stack(found).astype(int) - np.stack(expected).astype(int))
    assert difference.shape == (4, 80, 64, 3) and np.stack(expected).std() > 10
    assert difference.max() <= 1


def test_the_plain_ksampler_gives_the_same(toon, base):
    config = RenderConfig(**SMALL, prompt=PROMPT, negative="night", noise_correlation=0.0)
    model, clip, _ = toon
    positive, negative = (core.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "night"))
    empty = {"samples": torch.zeros(4, 4, 10, 8)}
    settings = (model, config.seed, config.steps, config.cfg, "dpmpp_2m", "karras", positive, negative, empty)
    expected = model.get_model_object("latent_format").process_in(core.KSampler().sample(*settings)[0]["samples"])
    assert relative(rendered(base, config), expected) < 1e-4


def test_zero_terminal_snr_equals_comfyuis(toon, base):
    """The toon model as if it predicted v on a schedule that ends in pure noise."""
    config = RenderConfig(**SMALL, prompt=PROMPT, **SHARED)
    (changed,) = ModelSamplingDiscrete().patch(toon[0], "v_prediction", True)
    expected = comfy_latents((changed, *toon[1:]), config)
    fields = {"rescale_betas_zero_snr": True}
    other = replace(base, prediction="v_prediction", scheduler_config=fields, sigmas=sigmas_of(fields))
    assert relative(rendered(other, config), expected) < 1e-4


def test_noise_is_comfyuis():
    config = RenderConfig(**{**SMALL, "noise_correlation": 0.0, "prompt": PROMPT, "seed": 2**63 + 5})
    assert torch.equal(initial_noise(config), comfy.sample.prepare_noise(torch.zeros(4, 4, 10, 8), config.seed))
