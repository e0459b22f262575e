"""A chain of segments under real ComfyUI samplers, beside the same segments sampled by hand."""

import json
import logging
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import folder_paths
import nodes as core_nodes
import pytest
import torch

from clip_sampling import (
    ENTRY_POINTS,
    NEGATIVE,
    POSITIVE,
    SIZE,
    adapted,
    anchored,
    chained,
    close,
    controlled,
    correlated,
    empty,
    given,
    ksample,
    model,
    rows_of,
    sigmas_of,
    smoothed,
    watched,
)
from sdxl_anime_video.nodes.segment_chain import SegmentChain, graph_digest
from sdxl_anime_video.temporal.hosts.comfy import resume

LENGTH = 7  # frames of a clip


@pytest.mark.parametrize("run", ENTRY_POINTS)
@pytest.mark.parametrize("carry", ["overlap", "last_frame"])
def test_a_clip_of_one_segment_equals_the_plain_run(run, carry):
    plain = adapted(model())
    latent = {"samples": empty(5)}
    for frames in (5, 6):
        assert torch.equal(run(chained(plain, frames, carry=carry), latent)["samples"], run(plain, latent)["samples"])


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
    """Without an adapter frames are independent, so it cannot matter where a clip is cut."""
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


def test_prompts_of_each_frame_follow_it():
    plain, prompts = model(), rows_of(POSITIVE, LENGTH)
    sampler, noise = comfy.samplers.sampler_object("euler"), comfy.sample.prepare_noise(empty(LENGTH), 5)

    def sample(model):
        return comfy.sample.sample_custom(
            model, noise, 2.0, sampler, sigmas_of(plain, 3), prompts, NEGATIVE, empty(LENGTH), seed=5
        )

    whole = sample(plain)
    for cut in (chained(plain, 3, 0), chained(plain, 4, 1)):
        assert close(sample(cut), whole)
    assert not torch.allclose(whole, ksample(plain, noise=noise, steps=3, latent=empty(LENGTH)), atol=1e-2)


def test_prompts_of_another_number_of_frames_are_refused():
    with pytest.raises(ValueError, match=r"the positive conditioning has 5 frame\(s\) but the latent has 7"):
        sampler, sigmas = comfy.samplers.sampler_object("euler"), sigmas_of(model(), 2)
        conds = rows_of(POSITIVE, 5), NEGATIVE
        comfy.sample.sample_custom(chained(model(), 3), empty(LENGTH), 2.0, sampler, sigmas, *conds, empty(LENGTH))


@pytest.mark.parametrize("stacked", [False, True])
def test_hints_of_each_frame_follow_it(stacked):
    plain = model()
    hints = torch.rand(LENGTH, 8 * SIZE, 8 * SIZE, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = controlled(plain, hints)
    if stacked:
        second = positive[0][1]["control"].copy().set_cond_hint(hints.movedim(-1, 1).flip(0), 0.3)
        second.set_previous_controlnet(positive[0][1]["control"])
        positive, negative = ([[c[0][0], {**c[0][1], "control": second}]] for c in (positive, negative))
    noise, sampler = comfy.sample.prepare_noise(empty(LENGTH), 5), comfy.samplers.sampler_object("euler")

    def sample(model, positive=positive, negative=negative):
        sigmas = sigmas_of(plain, 3)
        return comfy.sample.sample_custom(model, noise, 2.0, sampler, sigmas, positive, negative, empty(LENGTH), seed=5)

    whole = sample(plain)
    assert close(sample(chained(plain, 3, 0)), whole)
    assert close(sample(chained(plain, 4, 2)), whole)
    assert torch.equal(sample(plain), whole)  # the ControlNet itself is as it was
    assert not torch.allclose(sample(plain, POSITIVE, NEGATIVE), whole, atol=1e-2)


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


def test_progress_and_denoised_output_are_the_whole_chains():
    patched = chained(adapted(model()), 4, 2)
    sampler = custom.KSamplerSelect.execute("euler").result[0]
    output, denoised = custom.SamplerCustom.execute(
        patched, True, 5, 2.0, POSITIVE, NEGATIVE, sampler, sigmas_of(patched, 3), {"samples": empty(LENGTH)}
    ).result
    assert denoised["samples"].shape == output["samples"].shape
    assert torch.allclose(denoised["samples"], output["samples"], atol=1e-3)
    steps = []
    ksample(patched, frames=LENGTH, steps=3, callback=lambda step, x0, x, total: steps.append((step, len(x0), total)))
    assert [step for step, _, _ in steps] == list(range(9))
    assert {total for _, _, total in steps} == {9}
    assert steps[-1][1] == LENGTH


def stop_at(step):
    def callback(now, x0, x, total):
        if now == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    return callback


def test_interrupt_leaves_nothing_behind():
    patched = chained(adapted(model()), 4, 2)
    expected = ksample(patched, frames=LENGTH)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(patched, frames=LENGTH, callback=stop_at(5))
    assert torch.equal(ksample(patched, frames=LENGTH), expected)


# Resuming.


@pytest.fixture
def resume_id(request):
    yield "test-" + request.node.name.split("[")[0].replace("_", "-")
    import shutil

    shutil.rmtree(runs(), ignore_errors=True)


def runs() -> Path:
    return Path(folder_paths.get_user_directory()) / "sdxl-anime-video" / "resume"


@pytest.mark.parametrize("carry", ["overlap", "last_frame"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_an_interrupted_chain_goes_on(resume_id, carry, sampler):
    seen = []
    plain = correlated(adapted(model()), correlation=0.5)
    expected = ksample(chained(plain, 4, 1, carry), sampler, frames=10)
    patched = chained(watched(plain, seen), 4, 1, carry, resume_id=resume_id)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(patched, sampler, frames=10, callback=stop_at(5))
    files = sorted(path.name for path in (runs() / resume_id).iterdir())
    assert files == ["0000.safetensors", "run.json"]
    seen.clear()
    assert torch.equal(ksample(patched, sampler, frames=10), expected)
    assert min(info.index[0] for info, _ in seen) > 0  # the first segment was not sampled again
    seen.clear()
    steps = []
    callback = lambda step, x0, x, total: steps.append(x0)  # noqa: E731
    assert torch.equal(ksample(patched, sampler, frames=10, callback=callback), expected)
    assert not seen
    assert torch.allclose(patched.model.process_latent_out(steps[-1]), expected, atol=1e-4)


CHANGES = {
    "seed or noise": {"seed": 6},
    "sigmas": {"steps": 5},
    "sampler": {"sampler": "heun"},
    "guidance": {"cfg": 3.0},
    "latent image": {"latent": given(LENGTH)["samples"]},
    "mask": {"mask": torch.full((LENGTH, SIZE * 8, SIZE * 8), 0.5)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_run_starts_afresh(resume_id, name, caplog):
    patched = chained(model(), 4, 1, resume_id=resume_id)
    ksample(patched, steps=4, latent=empty(LENGTH))
    changed = {"steps": 4, "latent": empty(LENGTH), **CHANGES[name]}
    with caplog.at_level(logging.WARNING):
        result = ksample(patched, **changed)
    assert f"{resume_id} starts afresh, for this changed: " in caplog.text and name in caplog.text
    assert torch.equal(result, ksample(chained(model(), 4, 1), **changed))


MODEL_CHANGES = {
    "temporal adapter and other patches": lambda m: adapted(m, 0.5),
    "frame settings": lambda m: smoothed(m, 0.2),
    "model": lambda m: lora(m),
}


def lora(model):
    model = model.clone()
    key = next(key for key in model.model.state_dict() if key.endswith("attn1.to_q.weight"))
    model.add_patches({key: (torch.full_like(model.model.state_dict()[key], 0.1),)}, 1.0)
    return model


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_a_changed_model_starts_afresh(resume_id, name, caplog):
    plain = adapted(model())
    ksample(chained(plain, 4, 1, resume_id=resume_id), frames=LENGTH)
    ksample(chained(plain, 4, 1, resume_id=resume_id), frames=LENGTH)  # a loaded model is the same model
    assert "starts afresh" not in caplog.text
    changed = MODEL_CHANGES[name](plain)
    result = ksample(chained(changed, 4, 1, resume_id=resume_id), frames=LENGTH)
    assert name in caplog.text
    assert torch.equal(result, ksample(chained(changed, 4, 1), frames=LENGTH))


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_damaged_segment_is_sampled_again(resume_id, content, caplog):
    patched = chained(adapted(model()), 4, 1, resume_id=resume_id)
    expected = ksample(patched, frames=LENGTH)
    path = runs() / resume_id / "0000.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert torch.equal(ksample(patched, frames=LENGTH), expected)
    assert "cannot be read" in caplog.text


def test_a_damaged_record_starts_afresh(resume_id):
    patched = chained(adapted(model()), 4, 1, resume_id=resume_id)
    expected = ksample(patched, frames=LENGTH)
    (runs() / resume_id / "run.json").write_text("{")
    assert torch.equal(ksample(patched, frames=LENGTH), expected)
    assert json.loads((runs() / resume_id / "run.json").read_text())["sigmas"]


def test_old_runs_are_forgotten(resume_id):
    for i in range(resume.KEPT_RUNS + 3):
        ksample(chained(model(), 2, 0, resume_id=f"{resume_id}-{i}"), frames=3, steps=1)
    assert len(list(runs().iterdir())) == resume.KEPT_RUNS
    assert (runs() / f"{resume_id}-{resume.KEPT_RUNS + 2}").exists()


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
    with pytest.raises(ValueError, match="SAV_SegmentChain: .*" + message.replace("..", r"\.\.")):
        SegmentChain.execute(model(), **settings)


def test_two_chains_on_one_model_are_refused():
    with pytest.raises(ValueError, match="already has a chain"):
        chained(chained(model(), 4), 5)


def test_graph_digest_is_of_what_leads_to_the_node():
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a"}},
        "2": {"class_type": "SAV_SegmentChain", "inputs": {"model": ["1", 0], "overlap": 4}},
        "3": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "seed": 1}},
    }
    first = graph_digest(graph, 2)
    assert graph_digest({**graph, "3": {"class_type": "KSampler", "inputs": {"seed": 2}}}, "2") == first
    graph["1"]["inputs"]["ckpt_name"] = "b"
    assert graph_digest(graph, "2") != first
    assert graph_digest(None, "2") == ""
