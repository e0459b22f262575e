"""A chain of segments under real ComfyUI samplers, beside the same segments sampled by hand."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import nodes as core_nodes
import pytest
import torch

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
    rows_of,
    sigmas_of,
    stop_at,
    watched,
)
from sdxl_anime_video.nodes.segment_chain import SegmentChain

LENGTH = 7  # frames of a clip


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_overlap_equals_segments_by_hand(sampler, overlap):
    plain = adapted(model())
    noise = comfy.sample.prepare_noise(empty(LENGTH), 5)
    expected = ksample(plain, sampler, noise=noise[:4], latent=empty(4))
    while len(expected) < LENGTH:
        known = max(overlap, 4 - (LENGTH - len(expected)))
        start = len(expected) - known
        latent = torch.cat([expected[start:], empty(4 - known)])
        mask = torch.tensor([0.0] * known + [1.0] * (4 - known))[:, None, None].expand(4, SIZE * 8, SIZE * 8)
        piece = ksample(plain, sampler, noise=noise[start : start + 4], latent=latent, mask=mask)
        expected = torch.cat([expected, piece[known:]])
    result = ksample(chained(plain, 4, overlap), sampler, noise=noise, latent=empty(LENGTH))
    assert torch.equal(result[:4], expected[:4])
    assert close(result, expected)


def test_last_frame_equals_segments_by_hand():
    plain = adapted(model())
    noise = comfy.sample.prepare_noise(empty(LENGTH), 5)
    sigmas = sigmas_of(plain, 4)
    sampler = comfy.samplers.sampler_object("euler")

    def sample(noise, sigmas, latent):
        return comfy.sample.sample_custom(plain, noise, 2.0, sampler, sigmas, POSITIVE, NEGATIVE, latent, seed=5)

    first = sample(noise[:4], sigmas, empty(4))
    second = sample(noise[4:], sigmas[-3:], first[-1:].repeat(3, 1, 1, 1))
    result = ksample(chained(plain, 4, carry="last_frame", denoise=0.5), noise=noise, latent=empty(LENGTH))
    assert torch.equal(result, torch.cat([first, second]))


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "lcm"])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_noise_follows_the_frame_and_not_the_segment(sampler, noise):
    """Without an adapter, frames are independent, so the borders of segments have no effect."""
    plain = correlated(model(), "progressive", noise)
    three, two = (ksample(chained(plain, frames, 0), sampler, frames=6) for frames in (3, 2))
    assert close(three, two)
    assert len({round(float(frame.sum()), 3) for frame in three}) == 6


def test_frames_are_published():
    seen = []
    ksample(chained(watched(adapted(model()), seen), 4, 2), steps=2, frames=6)
    infos = [(info.index.tolist(), info.known.tolist(), info.length, rows) for info, rows in seen]
    assert infos[0] == ([0, 1, 2, 3], [False] * 4, 6, 4)
    assert infos[-1] == ([2, 3, 4, 5], [True, True, False, False], 6, 4)


def test_prompts_of_another_number_of_frames_are_refused():
    with pytest.raises(ValueError, match=r"the positive conditioning has 5 frame\(s\) but the latent has 7"):
        ksample(chained(model(), 3), frames=LENGTH, positive=rows_of(POSITIVE, 5))


def test_pins_and_pulls_reach_over_segments():
    pin = given(2)
    result = ksample(chained(anchored(adapted(model()), latent=pin, positions="0, -1"), 4, 1), frames=LENGTH)
    assert torch.equal(result[0], pin["samples"][0]) and torch.equal(result[-1], pin["samples"][1])
    frozen = ksample(chained(anchored(model(), every=1, strength=1.0, band="all"), 3, 0), frames=LENGTH)
    assert torch.allclose(frozen, frozen[:1].expand_as(frozen), atol=1e-3)


def test_a_mask_of_the_latent_rules_its_own_frames():
    latent, mask = given(LENGTH)["samples"], torch.ones(LENGTH, SIZE * 8, SIZE * 8)
    mask[5] = 0
    result = ksample(chained(adapted(model()), 4, 1), latent=latent, mask=mask)
    assert torch.allclose(result[5], latent[5], atol=1e-5)
    assert not torch.allclose(result[4], latent[4], atol=1e-2)


def test_two_stages_carry_frames_without_the_noise_that_is_left():
    plain, sample = adapted(model()), core_nodes.KSamplerAdvanced().sample
    latent = {"samples": empty(LENGTH)}

    def run(model):
        half = sample(model, "enable", 5, 6, 2.0, "euler", "karras", POSITIVE, NEGATIVE, latent, 0, 3, "enable")[0]
        return sample(model, "disable", 5, 6, 2.0, "euler", "karras", POSITIVE, NEGATIVE, half, 3, 99, "disable")[0]

    result, whole = run(chained(plain, 4, 2))["samples"], run(plain)["samples"]
    assert torch.allclose(result[:4].std(), whole[:4].std(), rtol=0.2)
    assert torch.allclose(result[4:].std(), whole[4:].std(), rtol=0.3)


SAMPLERS = {"euler": {}, "dpm_fast": {}, "dpm_adaptive": {"rtol": 0.5, "atol": 0.1}}


@pytest.mark.parametrize("name", SAMPLERS)
def test_denoised_output_and_progress_are_the_whole_chains(name):
    """dpm_fast takes fewer steps than there are noise levels, dpm_adaptive as many as it likes."""
    patched = chained(adapted(model()), 4, 2)
    sampler, sigmas = comfy.samplers.ksampler(name, SAMPLERS[name]), sigmas_of(patched, 3)
    output, denoised = custom.SamplerCustom.execute(
        patched, True, 5, 2.0, POSITIVE, NEGATIVE, sampler, sigmas, {"samples": empty(6)}
    ).result
    assert denoised["samples"].shape == output["samples"].shape
    if name == "euler":  # it ends in its last prediction
        assert torch.allclose(denoised["samples"], output["samples"], atol=1e-3)
    seen = []
    comfy.sample.sample_custom(
        patched, empty(6), 2.0, sampler, sigmas, POSITIVE, NEGATIVE, empty(6), seed=5,
        callback=lambda step, x0, x, total: seen.append((step, len(x0), total)),
    )  # fmt: skip
    steps = [step for step, _, _ in seen]
    assert steps == sorted(steps) and {total for _, _, total in seen} == {6}
    assert seen[-1][:2] == (5, 6)
    assert name != "euler" or steps == list(range(6))


def test_interrupt_leaves_nothing_behind():
    patched = chained(adapted(model()), 4, 2)
    expected = ksample(patched, frames=LENGTH)
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(rows_of(POSITIVE, LENGTH), NEGATIVE)
    noise, sampler = comfy.sample.prepare_noise(empty(LENGTH), 5), comfy.samplers.sampler_object("euler")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        guider.sample(noise, empty(LENGTH), sampler, sigmas_of(patched, 4), callback=stop_at(5))
    assert len(guider.conds["positive"][0]["cross_attn"]) == LENGTH  # not the length of the interrupted segment
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(patched, frames=LENGTH, callback=stop_at(5))
    assert torch.equal(ksample(patched, frames=LENGTH), expected)


# The node.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 16}, "overlap 16 leaves no new frames in segments of 16"),
        ({"segment_frames": 0, "overlap": 0}, "segment_frames is 0"),
        ({"carry": "hands"}, "carry is 'hands'"),
        ({"carry_denoise": 0.0}, "carry_denoise is 0"),
        ({"resume_id": "../up"}, "resume_id '../up' cannot name a folder"),
        ({"resume_id": ".."}, "cannot name a folder"),
    ],
)
def test_the_node_refuses(changes, message):
    settings = {"segment_frames": 16, "overlap": 4, "carry": "overlap", "carry_denoise": 0.6, **changes}
    with pytest.raises(ValueError, match="Segment Chain: .*" + message.replace("..", r"\.\.")):
        SegmentChain.execute(model(), **settings)


def test_two_chains_on_one_model_are_refused():
    with pytest.raises(ValueError, match="already has a chain"):
        chained(chained(model(), 4), 5)
