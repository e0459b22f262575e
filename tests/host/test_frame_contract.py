"""The contract under real ComfyUI samplers: neutral is vanilla, wiring order has no effect, frames are published."""

import itertools
import random
import re
from dataclasses import fields

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from clip_sampling import (
    ENTRY_POINTS,
    FRAMES,
    POSITIVE,
    SIZE,
    adapted,
    anchored,
    chained,
    correlated,
    empty,
    given,
    ksample,
    model,
    rows_of,
    smoothed,
    watched,
    windowed,
)
from sdxl_anime_video.nodes.latent import EmptyVideoLatent
from sdxl_anime_video.temporal.clip.contract import CONTRACT_KEY, Smoothing, contract_of
from sdxl_anime_video.temporal.clip.frames import pull_to_reference, smooth_frames
from sdxl_anime_video.temporal.hosts.comfy.sampling.clip_run import Schedule

SETTINGS = {
    "noise": lambda m: correlated(m, "progressive", 0.7),
    "smoothing": lambda m: smoothed(m, 0.3, 0.0, 0.8),
    "second smoothing": lambda m: smoothed(m, 0.1, 0.2, 1.0),
    "pull": lambda m: anchored(m, every=2, strength=0.5),
    "pin": lambda m: anchored(m, latent=given(1), positions="-1"),
    "adapter": adapted,
    "chain": lambda m: chained(m, 4, 2),
    "windows": lambda m: windowed(m, 3, 1, "uniform"),
}


@pytest.mark.parametrize("run", ENTRY_POINTS)
@pytest.mark.parametrize("kind", ["plain", "masked", "batch_index"])
def test_neutral_settings_equal_vanilla(run, kind):
    plain = model()
    latent = {"samples": empty(3)}
    if kind == "masked":
        latent["noise_mask"] = torch.rand(3, SIZE * 8, SIZE * 8)
    if kind == "batch_index":
        latent["batch_index"] = [1, 3, 4]
    neutral = anchored(smoothed(correlated(plain, correlation=0.0), amount=0.0), strength=0.0, latent=given(1))
    # A recorded contract without settings publishes its frames and changes no bit.
    quiet = smoothed(plain, amount=0.5, start=1.0, end=1.0)
    vanilla = run(plain, latent)["samples"]
    assert torch.equal(run(neutral, latent)["samples"], vanilla)
    assert torch.equal(run(quiet, latent)["samples"], vanilla)
    assert torch.equal(run(plain, latent)["samples"], vanilla)


def test_one_frame_equals_vanilla():
    plain = model()
    patched = anchored(smoothed(correlated(plain)), strength=0.5)
    assert torch.equal(ksample(patched, "euler_ancestral", frames=1), ksample(plain, "euler_ancestral", frames=1))


@pytest.mark.parametrize("run", ENTRY_POINTS)
def test_every_entry_point_carries_the_contract_out(run):
    plain = model()
    latent = {"samples": empty(), "noise_mask": torch.ones(1, SIZE * 8, SIZE * 8)}
    pin = given(1)
    patched = anchored(smoothed(correlated(plain)), latent=pin, positions="2")
    result = run(patched, latent)["samples"]
    vanilla = run(plain, latent)["samples"]
    assert torch.equal(result[2], pin["samples"][0])
    assert not any(torch.allclose(result[f], vanilla[f], atol=1e-2) for f in range(FRAMES))
    assert torch.count_nonzero(latent["samples"]) == 0 and (latent["noise_mask"] == 1).all()  # inputs stay


def orders(count):
    """Wiring orders: forwards, backwards, and random ones."""
    draw = random.Random(0)
    yield list(SETTINGS)
    yield list(reversed(SETTINGS))
    for _ in range(count - 2):
        yield draw.sample(list(SETTINGS), len(SETTINGS))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_wiring_order_leaves_no_trace(sampler):
    plain = model()
    results = []
    for order in orders(8):
        patched = plain
        for name in order:
            patched = SETTINGS[name](patched)
        assert len(patched.get_wrappers(WrappersMP.OUTER_SAMPLE, CONTRACT_KEY)) == 1
        results.append(ksample(patched, sampler, steps=3))
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_wiring_order_records_the_same():
    plain = model()
    contracts = set()
    for order in orders(2000):
        patched = plain
        for name in order:
            patched = SETTINGS[name](patched)
        contract = contract_of(patched.model_options)
        recorded = {field.name: getattr(contract, field.name) for field in fields(contract)}
        recorded["pins"] = tuple((pin.places, pin.strength) for pin in contract.pins)
        assert all(recorded.values())  # SETTINGS has every kind of setting
        contracts.add(tuple(recorded.items()))
    assert len(contracts) == 1
    assert CONTRACT_KEY not in plain.model_options  # clones do not change their origin


def test_branches_of_one_model_do_not_see_each_other():
    plain = model()
    trunk = correlated(plain)
    left, right = smoothed(trunk, 0.3), anchored(trunk, strength=0.5)
    before = ksample(trunk)
    ksample(left), ksample(right)
    assert torch.equal(ksample(trunk), before)
    assert contract_of(left.model_options).pulls == () and contract_of(right.model_options).smoothings == ()


def test_repeated_and_cloned_runs_are_equal():
    patched = anchored(smoothed(correlated(model())), strength=0.5)
    first = ksample(patched, "dpmpp_2m_sde")
    assert torch.equal(ksample(patched, "dpmpp_2m_sde"), first)
    assert torch.equal(ksample(patched.clone().clone(), "dpmpp_2m_sde"), first)
    comfy.model_management.unload_all_models()
    assert torch.equal(ksample(patched, "dpmpp_2m_sde"), first)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_an_interrupt_leaves_nothing_behind(sampler):
    patched = anchored(smoothed(correlated(model())), latent=given(1))
    before = ksample(patched, sampler)
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in patched.model_options.items()}

    def interrupt(step, x0, x, total_steps):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(patched, sampler, callback=interrupt)
    assert patched.model_options == options
    assert torch.equal(ksample(patched, sampler), before)


@pytest.mark.parametrize(
    "sampler, steps",
    [("euler", [0, 1, 2, 3]), ("dpmpp_2m", [0, 1, 2, 3]), ("dpmpp_sde", [0, 0, 1, 1, 2, 2, 3]), ("lcm", [0, 1, 2, 3])],
)
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_frames_are_published_at_every_step(sampler, steps, cfg):
    seen = []
    ksample(watched(anchored(model(), latent=given(2), positions="0, -1"), seen), sampler, cfg=cfg)
    assert [info.step for info, _ in seen] == steps
    for info, frames in seen:
        assert frames == FRAMES
        assert info.index.tolist() == list(range(FRAMES)) and info.length == FRAMES
        assert info.known.tolist() == [True, False, False, False, True]


def test_known_frames_follow_the_mask_and_the_range():
    seen = []
    patched = watched(anchored(model(), latent=given(1), positions="1", start=0.0, end=0.5), seen)
    mask = torch.ones(FRAMES, SIZE, SIZE)
    mask[3] = 0
    mask[4, 2:] = 0
    ksample(patched, mask=mask, latent=given(FRAMES)["samples"])
    assert seen[0][0].known.tolist() == [False, True, False, True, False]
    assert seen[-1][0].known.tolist() == [False, False, False, True, False]


def one_step(model):
    """The denoised prediction of a single Euler step from pure noise."""
    return ksample(model, steps=1)


def test_smoothing_acts_on_the_denoised_prediction():
    plain = model()
    expected = smooth_frames(one_step(plain), 0.3)
    assert torch.allclose(one_step(smoothed(plain, 0.3)), expected, atol=1e-3)


@pytest.mark.parametrize("band", ["low", "all"])
@pytest.mark.parametrize("places", [{"every": 2}, {"positions": "2, 100%"}])
def test_anchoring_pulls_the_denoised_prediction(band, places):
    plain = model()
    vanilla = one_step(plain)
    expected = pull_to_reference(vanilla, torch.tensor([2, 4]), vanilla[0], 0.6, band)
    result = one_step(anchored(plain, strength=0.6, band=band, **places))
    assert torch.allclose(result, expected, atol=1e-3)
    assert not torch.allclose(result, vanilla, atol=1e-2)


@pytest.mark.parametrize("start, end, active", [(0.0, 1.0, 4), (0.0, 0.5, 2), (0.5, 1.0, 2), (1.0, 1.0, 0)])
def test_ranges_follow_the_models_schedule(start, end, active):
    sampling = model().get_model_object("model_sampling")
    percents = [0.0, 0.3, 0.7, 0.9]
    sigmas = torch.tensor([float(sampling.sigma_max), *(sampling.percent_to_sigma(p) for p in percents[1:]), 0.0])
    schedule = Schedule(sampling.percent_to_sigma, sigmas)
    setting = Smoothing(0.1, start, end)
    assert sum(schedule.in_range(setting, float(sigma)) for sigma in sigmas[:-1]) == active


def test_the_range_of_a_setting_limits_its_effect():
    plain = model()
    early, late, full = (ksample(smoothed(plain, 0.3, *r)) for r in ((0.0, 0.4), (0.4, 1.0), (0.0, 1.0)))
    vanilla = ksample(plain)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in itertools.combinations([early, late, full, vanilla], 2))


def test_two_different_noises_on_one_model_are_an_error():
    patched = correlated(model(), "shared", 0.8)
    correlated(patched, "shared", 0.8)
    with pytest.raises(ValueError, match="Correlated Noise: this MODEL already has shared noise"):
        correlated(patched, "progressive", 0.8)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("shape", [(1, 4, 2, SIZE, SIZE), (FRAMES, 16, SIZE, SIZE), (0, 4, SIZE, SIZE), (2, 4, 0, 0)])
def test_latents_that_are_no_clip_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"\[frames, 4, height, width\].* {re.escape(str(list(shape)))}; use an SDXL"):
        ksample(SETTINGS[name](model()), latent=torch.ones(shape))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("rows", [2, FRAMES + 1])
def test_prompts_for_another_number_of_frames_are_refused(name, rows):
    words = rf"Prompt Schedule and Empty Video Latent: the positive conditioning has {rows} .* the latent has {FRAMES}"
    with pytest.raises(ValueError, match=words):
        ksample(SETTINGS[name](model()), positive=rows_of(POSITIVE, rows))


def test_node_errors_name_the_node_and_the_value():
    plain = model()
    for call, message in [
        (lambda: correlated(plain, "freenoise", window=4, overlap=4), "Correlated Noise: freenoise overlap is 4"),
        (lambda: correlated(plain, correlation=2.0), "Correlated Noise: correlation is 2"),
        (lambda: smoothed(plain, 0.1, 0.8, 0.2), "Frame Smoothing: start_percent 0.8 is after end_percent 0.2"),
        (
            lambda: smoothed(plain, 0.1, 1.2, 1.5),
            "Frame Smoothing: start_percent is 1.2; it must lie between 0 and 1",
        ),
        (lambda: smoothed(plain, 0.1, -3.0, 1.0), "Frame Smoothing: start_percent is -3"),
        (lambda: smoothed(plain, 0.1, 0.0, 1.2), "Frame Smoothing: end_percent is 1.2"),
        (lambda: smoothed(plain, 0.1, float("nan"), 1.0), "Frame Smoothing: start_percent is nan"),
        (lambda: anchored(plain, end=float("nan")), "Keyframe Anchor: end_percent is nan"),
        (lambda: anchored(plain, strength=float("nan")), "Keyframe Anchor: strength is nan"),
        (lambda: smoothed(plain, 1.5), "Frame Smoothing: amount is 1.5"),
        (lambda: anchored(plain, strength=-1.0), "Keyframe Anchor: strength is -1"),
        (lambda: anchored(plain, every=0), "Keyframe Anchor: every is 0"),
        (lambda: anchored(plain, positions="one"), "Keyframe Anchor: cannot read position 'one'"),
        (lambda: anchored(plain, latent={"samples": torch.zeros(1, 4, 2, 8, 8)}), "Keyframe Anchor: the given"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "values, words",
    [
        ((768, 512, 0), "frames is 0; .* between 1 and 4096"),
        ((768, 512, -3), "frames is -3"),
        ((768, 512, 10**12), "frames is 1000000000000"),
        ((100, 512, 1), "width is 100; .* multiple of 8 from 64 to 4096"),
        ((768, 7, 1), "height is 7"),
        ((-64, 512, 1), "width is -64"),
        ((768, 8192, 1), "height is 8192"),
    ],
)
def test_empty_video_latent_of_a_size_that_cannot_be(values, words):
    with pytest.raises(ValueError, match=f"^Empty Video Latent: {words}"):
        EmptyVideoLatent.execute(*values)


def test_empty_video_latent():
    latent, frames = EmptyVideoLatent.execute(768, 512, 7).result
    assert latent["samples"].shape == (7, 4, 64, 96) and not latent["samples"].any()
    assert frames == 7
    schema = EmptyVideoLatent.define_schema()
    assert not {i.id for i in schema.inputs} & {o.id for o in schema.outputs}
