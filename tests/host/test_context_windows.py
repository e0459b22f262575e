"""Context windows under real ComfyUI samplers, beside windows sampled by hand."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from clip_sampling import (
    NEGATIVE,
    POSITIVE,
    SIZE,
    adapted,
    anchored,
    chained,
    close,
    correlated,
    empty,
    given,
    ksample,
    model,
    sigmas_of,
    watched,
    windowed,
)
from sdxl_anime_video.nodes.context_windows import ContextWindows
from sdxl_anime_video.temporal.clip.segments import FUSES, SCHEDULES, plan_windows, window_weights

LENGTH = 7  # frames of a clip


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "dpm_2", "uni_pc"])
def test_without_overlap_windows_are_runs_of_their_own(sampler):
    plain, noise = adapted(model()), comfy.sample.prepare_noise(empty(6), 5)
    expected = torch.cat([ksample(plain, sampler, noise=some) for some in noise.split(3)])
    assert torch.equal(ksample(windowed(plain, 3, 0), sampler, noise=noise), expected)


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_is_the_weighted_mean_of_its_windows(fuse, schedule):
    """One step of Euler down to noise level 0 returns the denoised prediction itself."""
    plain, noise = adapted(model()), comfy.sample.prepare_noise(empty(LENGTH), 5)
    expected, total = torch.zeros_like(noise), torch.zeros(LENGTH)
    weights = window_weights(4, 2, fuse)
    for rows in plan_windows(LENGTH, 4, 2, schedule):
        expected[rows] += ksample(plain, noise=noise[rows], steps=1) * weights[:, None, None, None]
        total[rows] += weights
    found = ksample(windowed(plain, 4, 2, schedule, fuse), noise=noise, steps=1)
    assert close(found, expected / total[:, None, None, None])


@pytest.mark.parametrize("sampler", ["dpmpp_sde", "dpm_2_ancestral", "seeds_2", "lcm"])
def test_substep_and_stochastic_samplers(sampler):
    """Without an adapter, windows have no effect, with any sampler."""
    plain = correlated(model())
    whole = ksample(plain, sampler, frames=LENGTH)
    for schedule in SCHEDULES:
        assert close(ksample(windowed(plain, 4, 2, schedule), sampler, frames=LENGTH), whole)


def test_windows_matter_with_an_adapter():
    plain = adapted(model())
    assert not close(ksample(windowed(plain, 4, 2), frames=LENGTH), ksample(plain, frames=LENGTH))


def test_frames_are_published():
    seen = []
    ksample(windowed(watched(adapted(model()), seen), 4, 2, "looped"), steps=2, frames=6)
    assert [info.index.tolist() for info, _ in seen[:3]] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 0, 1]]
    assert all(info.length == 6 and frames == 4 for info, frames in seen)
    assert seen[-1][0].step == 1


def test_pins_and_masks_follow_their_frames():
    pin, latent, mask = given(2), given(LENGTH, seed=3)["samples"], torch.ones(LENGTH, SIZE * 8, SIZE * 8)
    mask[5] = 0
    patched = anchored(windowed(adapted(model()), 4, 2, "uniform"), latent=pin, positions="0, -1")
    result = ksample(patched, latent=latent, mask=mask)
    assert torch.equal(result[0], pin["samples"][0]) and torch.equal(result[-1], pin["samples"][1])
    assert torch.allclose(result[5], latent[5], atol=1e-5)


def test_windows_inside_segments_in_either_order():
    plain = adapted(model())
    a = ksample(chained(windowed(plain, 3, 1, "uniform"), 5, 2), frames=9)
    b = ksample(windowed(chained(plain, 5, 2), 3, 1, "uniform"), frames=9)
    assert torch.equal(a, b)
    assert not close(a, ksample(chained(plain, 5, 2), frames=9))


def test_freenoise_is_correlated_noise_of_that_mode():
    plain = adapted(model())
    a = ksample(windowed(plain, 4, 2, freenoise=True), frames=9)
    b = ksample(windowed(correlated(plain, "freenoise", 1.0, window=4, overlap=2), 4, 2), frames=9)
    assert torch.equal(a, b)
    with pytest.raises(ValueError, match="already has shared noise"):
        windowed(correlated(plain), freenoise=True)


def test_interrupt_within_a_step():
    patched = windowed(adapted(model()), 4, 2)
    expected = ksample(patched, frames=LENGTH)
    calls = []

    def interrupt(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    stopped = patched.clone()
    stopped.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "stop", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(stopped, frames=LENGTH)
    assert len(calls) == 2
    assert torch.equal(ksample(patched, frames=LENGTH), expected)


def test_denoised_output_is_the_whole_clip():
    patched = windowed(adapted(model()), 4, 2)
    sampler = custom.KSamplerSelect.execute("euler").result[0]
    output, denoised = custom.SamplerCustom.execute(
        patched, True, 5, 2.0, POSITIVE, NEGATIVE, sampler, sigmas_of(patched, 3), {"samples": empty(LENGTH)}
    ).result
    assert close(denoised["samples"], output["samples"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 16}, "windows of 16 frames cannot overlap by 16"),
        ({"schedule": "round"}, "schedule is 'round'"),
        ({"fuse": "soft"}, "fuse is 'soft'"),
    ],
)
def test_the_node_refuses(changes, message):
    settings = {"length": 16, "overlap": 4, "schedule": "uniform", "fuse": "pyramid", **changes}
    with pytest.raises(ValueError, match=f"Context Windows: {message}"):
        ContextWindows.execute(model(), **settings)


def test_two_kinds_of_windows_are_refused():
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    with pytest.raises(ValueError, match="already has context windows"):
        windowed(windowed(model(), 4), 5)
    settings = {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 0}
    if "freenoise" in ContextWindowsManualNode.GET_SCHEMA().get_v1_info(ContextWindowsManualNode).input["required"]:
        settings["freenoise"] = False
    core = ContextWindowsManualNode.execute(windowed(model(), 4), 4, 1, "standard_static", **settings)
    with pytest.raises(ValueError, match="also has ComfyUI's own context windows"):
        ksample(core.result[0], frames=LENGTH)
