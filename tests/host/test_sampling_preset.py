"""Sampling Preset in the real ComfyUI: equal to core's samplers, and its warnings in a graph."""

import logging

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_model_advanced as advanced
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler

import lora_files as make
from clip_sampling import NEGATIVE, POSITIVE, correlated, correlations, empty, ksample, model, sample_custom
from node_runs import with_hidden
from sdxl_anime_video.nodes.best_hq import BestHQSampler, BestHQSigmas
from sdxl_anime_video.nodes.sampling_preset import SamplingPreset


def preset(model, name, **settings):
    return SamplingPreset.execute(model, name, **settings).args


def sampled(model, sampler, sigmas, cfg):
    return sample_custom(model, sampler, sigmas, cfg=cfg)


def core_lcm(model):
    return advanced.ModelSamplingDiscrete().patch(model, "lcm", False)[0]


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_best_hq_is_best_hq(denoise):
    plain = model()
    patched, sampler, sigmas, cfg, steps = preset(plain, "best_hq", denoise=denoise)
    assert patched is plain and (cfg, steps) == (6.25, 28)
    assert torch.equal(sigmas, BestHQSigmas.execute(plain, 28, denoise).args[0])
    few = preset(plain, "best_hq", steps=4)[2]
    assert torch.equal(sampled(plain, sampler, few, cfg), sampled(plain, BestHQSampler.execute(0.0).args[0], few, cfg))


@pytest.mark.parametrize(("steps", "denoise"), [(0, 1.0), (4, 1.0), (4, 0.5), (4, 0.0)])
def test_lcm_equals_cores_nodes(steps, denoise):
    plain = model()
    patched, sampler, sigmas, cfg, count = preset(plain, "lcm", steps=steps, denoise=denoise)
    assert (cfg, count) == (1.7, steps or 6)
    assert torch.equal(sigmas, BasicScheduler.execute(core_lcm(plain), "sgm_uniform", count, denoise).args[0])
    expected = sampled(core_lcm(plain), comfy.samplers.sampler_object("lcm"), sigmas, cfg)
    assert torch.equal(sampled(patched, sampler, sigmas, cfg), expected)


def test_lcm_equals_the_plain_ksampler():
    patched, sampler, sigmas, cfg, steps = preset(model(), "lcm")
    noise = comfy.sample.prepare_noise(empty(), 5)
    expected = comfy.sample.sample(
        core_lcm(model()), noise, steps, cfg, "lcm", "sgm_uniform", POSITIVE, NEGATIVE, empty(), seed=5
    )
    assert torch.equal(sampled(patched, sampler, sigmas, cfg), expected)


def test_lcm_sampling_attaches_and_detaches():
    plain = model()
    before = ksample(plain)
    patched = preset(plain, "lcm")[0]
    assert not torch.equal(ksample(patched), before)
    assert torch.equal(ksample(plain), before), "the model that came stays as it was"
    assert preset(patched, "lcm")[0] is patched, "what is set already stays"
    theirs = core_lcm(plain)
    assert preset(theirs, "lcm")[0] is theirs


def test_lcm_keeps_noise_levels_that_another_node_has_set():
    changed = model().clone()

    class Wider(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    sampling = Wider()
    sampling._register_schedule(beta_schedule="linear", timesteps=1000, linear_start=0.00085, linear_end=0.02)
    changed.add_object_patch("model_sampling", sampling)
    sigmas = preset(changed, "lcm")[2]
    assert abs(sigmas[0] - sampling.sigmas[-1]) < 1e-3 and sigmas[0] > 60


@pytest.mark.parametrize("kind", ["v_prediction", "x0"])
def test_lcm_refuses_what_it_is_not_for(kind):
    other = advanced.ModelSamplingDiscrete().patch(model(), kind, False)[0]
    with pytest.raises(ValueError, match="Sampling Preset: the preset lcm is for models that predict epsilon"):
        preset(other, "lcm")


def test_sde_equals_core():
    plain = model()
    patched, sampler, sigmas, cfg, steps = preset(plain, "sde", steps=4)
    assert patched is plain and (cfg, steps) == (6.25, 4)
    expected = comfy.sample.sample(
        plain, comfy.sample.prepare_noise(empty(), 5), 4, 6.25, "dpmpp_2m_sde", "karras", POSITIVE, NEGATIVE, empty(),
        seed=5,
    )  # fmt: skip
    assert torch.equal(sampled(plain, sampler, sigmas, cfg), expected)


@pytest.mark.parametrize("name", ["sde", "lcm"])
@pytest.mark.parametrize("order", ["noise first", "noise after"])
def test_step_noise_is_shared_under_correlated_noise(name, order):
    """The prediction is 0, so samples are only the noise of the steps. The order of the nodes has no effect."""
    plain, r = model().clone(), 0.8
    plain.set_model_sampler_calc_cond_batch_function(lambda args: [torch.zeros_like(args["input"])] * 2)
    plain = correlated(plain, "shared", r) if order == "noise first" else plain
    patched, sampler, sigmas, cfg, _ = preset(plain, name)
    patched = patched if order == "noise first" else correlated(patched, "shared", r)
    latent = torch.zeros(4, 4, 64, 64)
    noise = comfy.sample.prepare_noise(latent, 5)
    left = comfy.sample.sample_custom(
        patched, noise, cfg, sampler, sigmas[: len(sigmas) * 2 // 3], POSITIVE, NEGATIVE, latent, seed=5
    )
    assert (correlations(left) - torch.eye(4) * (1 - r) - r).abs().max() < 0.05


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "fast"}, "preset is 'fast'; choose one of best_hq, lcm, sde"),
        ({"name": "lcm", "steps": -1}, "steps is -1"),
        ({"name": "lcm", "cfg": -1.0}, "cfg is -1"),
        ({"name": "lcm", "cfg": float("nan")}, "cfg is nan"),
        ({"name": "sde", "denoise": 1.5}, "denoise is 1.5; it must lie between 0 and 1"),
        (
            {"name": "lcm", "denoise": 1e-9},
            "6 steps at denoise 1e-09 are the end of a schedule of 6,000,000,000 levels",
        ),
        ({"name": "best_hq", "denoise": 1e-9}, "28 steps at denoise 1e-09"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(ValueError, match=f"^Sampling Preset: {words}"):
        preset(model(), **settings)


@pytest.fixture(scope="module", autouse=True)
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    layers = make.kohya(make.layers(make.SDXL))
    make.write(folder / "x" / "lcm-lora-sdxl.safetensors", layers)
    make.write(folder / "pastel.safetensors", layers)
    make.write(folder / "renamed.safetensors", layers, **{"modelspec.title": "LCM LoRA SDXL"})
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)


class TestInAGraph:
    """The node as ComfyUI runs it: with the graph and its own id as hidden inputs."""

    @staticmethod
    def run(name, lora=None, patched=True, sampler_cfg=None, noise_after=False, ours=False, **settings):
        """What the node shows, in a graph with a LoRA before it and a KSampler after it."""
        by = {"speed_lora": lora} if ours else {"lora_name": lora}
        graph = {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
            "2": {"class_type": "Loader", "inputs": {"model": ["1", 0], **(by if lora else {})}},
            "3": {"class_type": "SAV_SamplingPreset", "inputs": {"model": ["2", 0], "preset": name}},
            "4": {"class_type": "SAV_CorrelatedNoise" if noise_after else "Other", "inputs": {"model": ["3", 0]}},
            "5": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "cfg": sampler_cfg or ["3", 3]}},
            "6": {"class_type": "Detailer", "inputs": {"model": ["1", 0], "image": ["5", 0], "cfg": 7.0}},
        }
        base = model()
        if patched:
            key = next(key for key in base.model.state_dict() if key.endswith("attn1.to_q.weight"))
            base.add_patches({key: (torch.zeros(base.model.state_dict()[key].shape),)}, 1.0)
        ready = with_hidden(SamplingPreset, prompt=graph, unique_id="3")
        return ready.execute(base, name, **settings).ui.as_dict()["text"][0]

    def test_all_is_there(self):
        lcm = "x/lcm-lora-sdxl.safetensors"
        assert self.run("best_hq") == "DPM++ 2M, Karras, 28 steps, CFG 6.25"
        assert self.run("lcm", lcm) == "LCM, uniform, 6 steps, CFG 1.7"
        assert "Warning" not in self.run("lcm", "renamed.safetensors"), "known by the title inside"
        assert "Warning" not in self.run("lcm", "pastel.safetensors", ours=True), "it was chosen as a speed_lora"
        assert "Warning" not in self.run("sde", noise_after=True)

    def test_a_speed_lora_by_a_link(self):
        assert "no LCM LoRA" in self.run("lcm", ["1", 0], ours=True)

    def test_what_is_missing(self, caplog):
        with caplog.at_level(logging.WARNING):
            text = self.run("lcm", "pastel.safetensors")
        assert text.count("Warning") == 1 and "no LCM LoRA leads to the model" in text
        assert "Sampling Preset: no LCM LoRA leads to the model" in caplog.text
        assert "no LCM LoRA" in self.run("lcm")
        assert "no LCM LoRA" in self.run("lcm", "renamed.safetensors", patched=False), "weight 0 leaves no patch"
        assert "add Correlated Noise" in self.run("sde")

    def test_cfg_7_with_an_lcm_lora(self):
        lcm = "x/lcm-lora-sdxl.safetensors"
        assert self.run("lcm", lcm, cfg=7.0).splitlines() == [
            "LCM, uniform, 6 steps, CFG 7",
            "Warning: CFG 7 burns colours under an LCM LoRA; 1.5 to 2 suit it.",
        ]
        text = self.run("lcm", lcm, sampler_cfg=7.0)
        assert text.count("Warning") == 1 and "node 5 (KSampler) has CFG 7 of its own" in text
        assert "x/lcm-lora-sdxl.safetensors is made for 4 to 6 steps" in self.run("best_hq", lcm)


def test_without_a_graph_only_the_model_is_asked():
    bare = SamplingPreset.execute(model(), "lcm").ui.as_dict()["text"][0]
    assert "no LCM LoRA" in bare
    noisy = correlated(model(), "shared", 0.5)
    assert "Warning" not in SamplingPreset.execute(noisy, "sde").ui.as_dict()["text"][0]
