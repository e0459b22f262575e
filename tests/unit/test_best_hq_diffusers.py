"""BestHQ as a diffusers scheduler, against diffusers' own DPMSolverMultistepScheduler: alone and in SDXL pipelines."""

import json

import diffusers
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

import tiny
from sdxl_anime_video.schedulers.diffusers import SDXLAnime_BestHQScheduler

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHIPPED_WITH_SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    **BETAS,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
SOURCES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def random_network(dtype: torch.dtype, seed: int = 1):
    """A fixed smooth nonlinear function of (x, t): mixes channels, depends on the timestep."""
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

    def predict(x, t):
        mixed = torch.einsum("...chw,cd->...dhw", x, weight)
        return torch.tanh(mixed * (0.5 + float(t) / 1000)) + 0.3 * x

    return predict


def run(scheduler, network, x, steps):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


def error(got, expected) -> float:
    """Largest difference as a part of the largest value."""
    return ((got - expected).abs().max() / expected.abs().max()).item()


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 4, 9, 20, 28])
@pytest.mark.parametrize("final", [{}, {"euler_at_final": True}, {"lower_order_final": False}])
def test_equals_dpm_solver_multistep(dtype, prediction_type, steps, final):
    theirs = DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", use_karras_sigmas=True, prediction_type=prediction_type, **final
    )
    ours = SDXLAnime_BestHQScheduler.from_config(theirs.config)
    x, network = noise(3, 4, 6, 6, dtype=dtype), random_network(dtype)
    expected, got = run(theirs, network, x, steps), run(ours, network, x, steps)
    assert got.dtype == dtype
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert error(got, expected) < 1e-5


def test_recovers_the_picture_from_perfect_predictions():
    """With epsilon pointing at one picture, every step stays on the line between it and the noise."""
    picture, start = noise(1, 4, 5, 5, dtype=torch.float64), noise(1, 4, 5, 5, dtype=torch.float64).flip(-1)
    scheduler = SDXLAnime_BestHQScheduler()
    scheduler.set_timesteps(12)
    sample = scheduler.add_noise(picture, start, scheduler.timesteps[:1])
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].double(), strict=True):
        exploding = sample * (1 + sigma**2).sqrt()
        sample = scheduler.step((exploding - picture) / sigma, t, sample).prev_sample
    torch.testing.assert_close(sample, picture, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOURCES)
def test_from_config_of_other_schedulers(name):
    source = getattr(diffusers, name)(**BETAS, prediction_type="v_prediction", num_train_timesteps=1000)
    x, network = noise(2, 4, 4, 4), random_network(torch.float32)
    reference = run(SDXLAnime_BestHQScheduler(**BETAS, prediction_type="v_prediction"), network, x, 6)
    for config in (source.config, dict(source.config), json.loads(source.to_json_string())):
        ours = SDXLAnime_BestHQScheduler.from_config(config)
        assert ours.config.prediction_type == "v_prediction"
        assert torch.equal(run(ours, network, x, 6), reference)
    assert torch.equal(run(SDXLAnime_BestHQScheduler(**source.config), network, x, 6), reference)


def test_config_shipped_with_sdxl_and_back(tmp_path, caplog):
    ours = SDXLAnime_BestHQScheduler.from_config(SHIPPED_WITH_SDXL)
    assert not caplog.records, "fields of another scheduler are no reason to warn"
    ours.save_pretrained(tmp_path)
    again = SDXLAnime_BestHQScheduler.from_pretrained(tmp_path)
    assert again.config.beta_end == 0.012
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == "SDXLAnime_BestHQScheduler"
    euler = diffusers.EulerDiscreteScheduler.from_config(ours.config)
    assert euler.config.timestep_spacing == "leading" and euler.config.steps_offset == 1


def test_overrides_win():
    assert SDXLAnime_BestHQScheduler.from_config(SHIPPED_WITH_SDXL, rho=5.0).config.rho == 5.0


def test_runs_inside_a_pipeline_that_checks_its_scheduler():
    """diffusers pipelines accept it as one of KarrasDiffusionSchedulers' family and list it as compatible."""
    ours = SDXLAnime_BestHQScheduler.from_config(SHIPPED_WITH_SDXL)
    assert isinstance(ours, diffusers.SchedulerMixin) and isinstance(ours, diffusers.ConfigMixin)
    assert diffusers.EulerDiscreteScheduler in ours.compatibles
    assert ours.init_noise_sigma == 1.0 and ours.order == 1 and len(ours) == 1000


def test_five_dimensional_samples():
    x, network = noise(2, 3, 4, 5, 5), random_network(torch.float32)
    clips = run(SDXLAnime_BestHQScheduler(), network, x, 5)
    frames = run(SDXLAnime_BestHQScheduler(), network, x.flatten(0, 1), 5)
    torch.testing.assert_close(clips.flatten(0, 1), frames, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = noise(2, 4, 4, 4).to(dtype)
    constant = noise(2, 4, 4, 4).flip(0).to(dtype)
    half = run(SDXLAnime_BestHQScheduler(prediction_type="sample"), lambda x, t: constant, x, 8)
    assert half.dtype == dtype
    assert torch.equal(half, constant), "the step to sigma 0 returns the prediction"
    scheduler = SDXLAnime_BestHQScheduler()
    scheduler.set_timesteps(8)
    once = scheduler.step(constant, scheduler.timesteps[0], x).prev_sample
    scheduler.set_timesteps(8)
    exact = scheduler.step(constant.float(), scheduler.timesteps[0], x.float()).prev_sample
    assert torch.equal(once, exact.to(dtype))


def test_hook_before_step_changes_prediction_and_sample():
    x, network = noise(1, 3, 4, 4, 4), random_network(torch.float32)

    def smooth(model_output, timestep, sample):
        sample = sample.clone()
        sample[:, 1:] = 0.8 * sample[:, 1:] + 0.2 * sample[:, :-1]
        return 0.9 * model_output, sample

    hooked = SDXLAnime_BestHQScheduler()
    hooked.hook_before_step = smooth
    got = run(hooked, network, x, 5)

    plain = SDXLAnime_BestHQScheduler()
    plain.set_timesteps(5)
    expected = x
    for t in plain.timesteps:
        output, sample = smooth(network(expected, t), t, expected)
        expected = plain.step(output, t, sample).prev_sample
    assert torch.equal(got, expected)
    only_prediction = SDXLAnime_BestHQScheduler()
    only_prediction.hook_before_step = lambda output, t, sample: (smooth(output, t, sample)[0], sample)
    assert (run(only_prediction, network, x, 5) - got).abs().max() > 0.01, "the changed sample must count"


def test_hook_after_step_changes_memory_and_sample():
    """Overridden in a subclass: what it returns as sample is returned, as denoised is used by the next step."""
    x, network = noise(1, 4, 4, 4), random_network(torch.float32)
    seen = []

    class Hooked(SDXLAnime_BestHQScheduler):
        def hook_after_step(self, denoised, timestep, prev_sample):
            seen.append(int(timestep))
            return torch.zeros_like(denoised), prev_sample + 1

    hooked, plain = Hooked(), SDXLAnime_BestHQScheduler()
    for scheduler in (hooked, plain):
        scheduler.set_timesteps(4)
    t0, t1 = hooked.timesteps[:2]
    first = hooked.step(network(x, t0), t0, x).prev_sample
    assert torch.equal(first, plain.step(network(x, t0), t0, x).prev_sample + 1)
    second = hooked.step(network(first, t1), t1, first).prev_sample
    unhooked = plain.step(network(first, t1), t1, first).prev_sample + 1
    assert (second - unhooked).abs().max() > 1e-3, "the changed denoised must reach the next step"
    assert seen == [int(t0), int(t1)]


def test_hook_that_returns_one_tensor_is_refused():
    scheduler = SDXLAnime_BestHQScheduler()
    scheduler.hook_before_step = lambda output, t, sample: output
    scheduler.set_timesteps(3)
    x = noise(1, 4, 2, 2)
    with pytest.raises(TypeError, match="hook_before_step must return a pair"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_add_noise_at_training_timesteps_of_clips():
    scheduler = SDXLAnime_BestHQScheduler()
    clean, noisy = noise(2, 3, 4, 2, 2), noise(2, 3, 4, 2, 2).flip(1)
    out = scheduler.add_noise(clean, noisy, torch.tensor([0, 999]))
    for row, t in enumerate((0, 999)):
        abar = scheduler.alphas_cumprod[t]
        torch.testing.assert_close(out[row], abar.sqrt() * clean[row] + (1 - abar).sqrt() * noisy[row])
    with pytest.raises(ValueError, match="timestep 1000"):
        scheduler.add_noise(clean, noisy, torch.tensor([1000, 0]))


@pytest.mark.parametrize("announce", [True, False])
def test_image_to_image_starts_in_the_middle_like_dpm_solver(announce):
    theirs = DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver++", use_karras_sigmas=True)
    picture, grain, network = noise(1, 4, 4, 4), noise(1, 4, 4, 4).flip(-1), random_network(torch.float32)
    results = []
    for scheduler in (theirs, SDXLAnime_BestHQScheduler()):
        scheduler.set_timesteps(10)
        if announce:
            scheduler.set_begin_index(4)
        x = scheduler.add_noise(picture, grain, scheduler.timesteps[4:5])
        for t in scheduler.timesteps[4:]:
            x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        results.append(x)
    assert error(results[1], results[0]) < 1e-5


def test_runs_are_independent():
    x, network, scheduler = noise(1, 4, 4, 4), random_network(torch.float32), SDXLAnime_BestHQScheduler()
    assert torch.equal(run(scheduler, network, x, 6), run(scheduler, network, x, 6))


def test_misuse_is_named():
    x = noise(1, 4, 2, 2)
    scheduler = SDXLAnime_BestHQScheduler()
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(x, 999, x)
    with pytest.raises(ValueError, match="at least 1 step"):
        scheduler.set_timesteps(0)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="timestep 500 is not in the schedule"):
        scheduler.step(x, 500, x)
    with pytest.raises(ValueError, match="differ in shape"):
        scheduler.step(torch.cat([x, x]), scheduler.timesteps[0], x)
    for t in scheduler.timesteps:
        scheduler.step(x, t, x)
    with pytest.raises(RuntimeError, match="step 3 of a run of 2"):
        scheduler.step(x, scheduler.timesteps[-1], x)


@pytest.mark.parametrize(
    "fields, error, words",
    [
        ({"prediction_type": "flow_prediction"}, ValueError, "flow_prediction"),
        ({"beta_schedule": "squaredcos_cap_v2"}, ValueError, "squaredcos_cap_v2"),
        ({"trained_betas": [0.1, 0.2]}, ValueError, "trained_betas"),
        ({"predicton_type": "epsilon"}, TypeError, "predicton_type"),
    ],
)
def test_configs_that_cannot_be_honoured(fields, error, words):
    with pytest.raises(error, match=words):
        SDXLAnime_BestHQScheduler(**fields)


def test_flow_matching_config_is_refused():
    config = diffusers.FlowMatchEulerDiscreteScheduler().config
    with pytest.raises(ValueError, match="flow matching"):
        SDXLAnime_BestHQScheduler.from_config(config)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4, norm_num_groups=8).eval()
    missing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return {"vae": vae, "unet": tiny.diffusers_unet(), **missing, "add_watermarker": False}


def draw(pipeline, **inputs):
    """Latents of two pictures, guided, from seeded noise."""
    (text, pooled) = (torch.randn(2, 7, tiny.TINY.context), torch.randn(2, tiny.TINY.pooled))
    return pipeline(
        prompt_embeds=text,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=-text,
        negative_pooled_prompt_embeds=-pooled,
        generator=torch.Generator().manual_seed(3),
        guidance_scale=3.0,
        output_type="latent",
        **inputs,
    ).images


@pytest.mark.parametrize(
    "kind, inputs",
    [
        (diffusers.StableDiffusionXLPipeline, {"height": 16, "width": 16, "num_inference_steps": 6}),
        (diffusers.StableDiffusionXLImg2ImgPipeline, {"image": None, "strength": 0.6, "num_inference_steps": 10}),
    ],
)
def test_pipeline_gives_what_dpm_solver_gives(parts, kind, inputs):
    if "image" in inputs:
        inputs = {**inputs, "image": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))}
    pipeline = kind(
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1), **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    results = []
    for scheduler in (
        DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True),
        SDXLAnime_BestHQScheduler.from_config(pipeline.scheduler.config),
    ):
        pipeline.scheduler = scheduler
        torch.manual_seed(1)
        results.append(draw(pipeline, **inputs))
    theirs, ours = results
    assert theirs.shape[0] == 2 and theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
