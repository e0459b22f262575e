"""The MODEL gets the noise levels that a motion module was trained on; its other sampling settings stay."""

import comfy.model_sampling
import comfy_extras.nodes_model_advanced as advanced
import numpy as np
import pytest
import torch

import motion
import tiny
from sdxl_anime_video.nodes.motion_module import ApplyMotionModule
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.hosts.comfy.presets import with_lcm_sampling

NODE = "Apply Motion Module"


@pytest.fixture(scope="module")
def model():
    return tiny.comfy_model(tiny.ALL_LEVELS)


@pytest.fixture(scope="module")
def modules():
    return {kind: as_patcher(motion.module(kind)) for kind in ("animatediff", "hotshot")}


def applied(model, module, choice="auto"):
    return ApplyMotionModule.execute(model, module, 1.0, 0.0, 1.0, choice).result[0]


def sampling_of(model):
    return model.get_model_object("model_sampling")


def sampled_as(model, kind, zsnr=False):
    """The MODEL after core's ModelSamplingDiscrete."""
    return advanced.ModelSamplingDiscrete().patch(model, kind, zsnr)[0]


def sigmas(betas):
    kept = np.cumprod(1 - betas)
    return torch.from_numpy(np.sqrt((1 - kept) / kept))


def scaled_linear(start, end):
    return np.linspace(start**0.5, end**0.5, 1000, dtype=np.float64) ** 2


def close(a, b):
    return bool(((a.double() - b.double()).abs() <= 1e-4 * b.double()).all())


def test_auto_is_the_schedule_of_the_training(model, modules):
    got = sampling_of(applied(model, modules["animatediff"]))
    assert close(got.sigmas, sigmas(scaled_linear(0.00085, 0.020)))
    assert float(got.sigma_max) == pytest.approx(65.93, abs=0.01)
    assert sampling_of(applied(model, modules["hotshot"])) is sampling_of(model)  # its schedule is SDXL's own
    assert float(sampling_of(model).sigma_max) == pytest.approx(14.61, abs=0.01)


def test_as_diffusers_has_it(model, modules):
    from diffusers import DDIMScheduler

    kinds = {"scaled-linear 0.00085-0.020": ("scaled_linear", 0.020), "linear 0.00085-0.012": ("linear", 0.012)}
    for choice, (name, end) in kinds.items():
        theirs = DDIMScheduler(1000, 0.00085, end, name).alphas_cumprod
        got = sampling_of(applied(model, modules["animatediff"], choice))
        assert close(got.sigmas, ((1 - theirs) / theirs).sqrt())
    assert float(got.sigma_max) == pytest.approx(25.1, abs=0.1)


def test_the_models_own(model, modules):
    assert sampling_of(applied(model, modules["animatediff"], "sdxl")) is sampling_of(model)
    assert sampling_of(applied(model, modules["animatediff"], "scaled-linear 0.00085-0.012")) is sampling_of(model)


@pytest.mark.parametrize("zsnr", [False, True])
@pytest.mark.parametrize(
    ("kind", "base"),
    [("eps", comfy.model_sampling.EPS), ("v_prediction", comfy.model_sampling.V_PREDICTION), ("lcm", advanced.LCM)],
)
def test_prediction_and_zero_terminal_snr_stay(model, modules, kind, base, zsnr):
    before = sampled_as(model, kind, zsnr)
    got = sampling_of(applied(before, modules["animatediff"]))
    assert isinstance(got, base)
    assert isinstance(got, type(sampling_of(before)))
    assert len(got.sigmas) == len(sampling_of(before).sigmas)
    assert float(got.sigma_max) == pytest.approx(4518.8 if zsnr else 65.93, rel=1e-3)
    assert not torch.equal(got.sigmas, sampling_of(before).sigmas)
    x, sigma = torch.randn(1, 4, 2, 2), torch.tensor([2.0])
    if kind != "lcm":  # its prediction depends on the time step, and so on the schedule
        old = sampling_of(before).calculate_denoised(sigma, x, 2 * x)
        assert torch.equal(got.calculate_denoised(sigma, x, 2 * x), old)


def test_a_checkpoint_that_says_so_itself(modules):
    """Anime checkpoints for zero terminal SNR: core reads the setting from a key of the file."""
    model = tiny.comfy_model(tiny.ALL_LEVELS)
    config = model.model.model_config
    settings = config.sampling_settings = {**config.sampling_settings, "zsnr": True}
    model.model.model_sampling = type(model.model.model_sampling)(config)
    got = sampling_of(applied(model, modules["animatediff"]))
    assert float(got.sigma_max) == pytest.approx(4518.8, rel=1e-3)
    assert config.sampling_settings is settings
    assert "linear_end" not in settings


def test_another_modules_schedule_is_not_changed(model, modules):
    first = applied(model, modules["animatediff"])
    with pytest.raises(
        ValueError, match=rf"{NODE}: beta_schedule auto .* maximum of 14.6.* another motion module .* 65.9. Choose sdxl"
    ):
        applied(first, modules["hotshot"])
    assert sampling_of(applied(first, modules["hotshot"], "sdxl")) is sampling_of(first)


def test_what_cannot_be_set(model, modules):
    with pytest.raises(ValueError, match=f"{NODE}: beta_schedule is 'cosine'; choose one of auto, sdxl"):
        applied(model, modules["animatediff"], "cosine")
    continuous = advanced.ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0]
    with pytest.raises(
        ValueError, match=f"{NODE}: beta_schedule auto cannot be set: the noise levels of this MODEL .* Choose sdxl"
    ):
        applied(continuous, modules["animatediff"])
    assert sampling_of(applied(continuous, modules["animatediff"], "sdxl")) is sampling_of(continuous)


def save_and_restore(patcher, turns):
    """What core's dynamic VRAM does (0.16 on): buffers are saved by path while one object stands there, and written
    while another does. turns: pairs of them."""
    model = patcher.model
    own = model.model_sampling
    try:
        for saved, written in turns:
            model.model_sampling = saved
            kept = dict(model.named_buffers())
            model.model_sampling = written
            for key, value in kept.items():
                path, _, name = key.rpartition(".")
                model.get_submodule(path).register_buffer(name, value.clone())  # comfy.utils.set_attr_buffer
    finally:
        model.model_sampling = own


@pytest.mark.parametrize("kind", ["motion module", "lcm"])
def test_core_restores_no_levels_of_another_object(model, modules, kind):
    plain = sampling_of(model)
    patched = applied(model, modules["animatediff"]) if kind == "motion module" else with_lcm_sampling(model)
    ours = sampling_of(patched)
    before = [each.sigmas.clone() for each in (plain, ours)]
    save_and_restore(patched, [(ours, plain), (plain, ours), (ours, plain)])
    assert not torch.equal(*(levels[-len(before[1]) :] for levels in before))
    assert all(torch.equal(each.sigmas, old) for each, old in zip((plain, ours), before, strict=True))
    assert float(ours.sigma(torch.tensor(999.0))) == pytest.approx(float(before[1][-1]))
