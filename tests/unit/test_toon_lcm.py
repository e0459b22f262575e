"""The toon LCM LoRA's arithmetic and training, in a few steps."""

import pytest
import torch

from sdxl_anime_video.benchmarks.judging import steps as evaluate_steps
from sdxl_anime_video.benchmarks.making.lcm import LcmTraining, Levels, sample_lcm, with_lora
from sdxl_anime_video.benchmarks.making.loop import train, write_half
from sdxl_anime_video.benchmarks.making.train import read_options
from sdxl_anime_video.demo.model import load_toon_diffusers, size_ids
from sdxl_anime_video.temporal.weights.header import read_header

CAPTION = "girl, blue hair, red dress, sunset, run"


@pytest.fixture(scope="module")
def base():
    unet, _, text = load_toon_diffusers()
    return unet, text


def told(text, count):
    context, pooled = text([CAPTION] * count)
    return context, {"text_embeds": pooled, "time_ids": size_ids(count)}


def test_levels_are_comfyuis():
    levels = Levels()
    assert levels.timesteps.tolist() == list(range(19, 1000, 20))
    clean, noise, level = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([-1, 7, 49])
    noisy = levels.mixed(clean, noise, level)
    assert torch.equal(noisy[0], clean[0])
    assert torch.allclose(levels.clean(noisy[1:], noise[1:], level[1:]), clean[1:], atol=1e-5)


def test_a_new_lora_is_silent_and_only_it_is_trained(base):
    unet, trained = with_lora(base[0], rank=2)
    x, (context, added) = torch.randn(1, 4, 16, 16), told(base[1], 1)
    with torch.no_grad():
        plain = base[0](x, 500, context, added_cond_kwargs=added).sample
        assert torch.equal(unet(x, 500, context, added_cond_kwargs=added).sample, plain)
        for value in trained:
            torch.nn.init.normal_(value)
        assert not torch.equal(unet(x, 500, context, added_cond_kwargs=added).sample, plain)
        assert torch.equal(base[0](x, 500, context, added_cond_kwargs=added).sample, plain)  # the base is its own
    assert all("lora" in name for name, value in unet.named_parameters() if value.requires_grad)


def test_training_resumes_and_writes_a_lora(base, tmp_path):
    options, shown = read_options(["lcm", "--frames", "6", "--batch", "2", "--cache", str(tmp_path)]), []
    for steps in (2, 3):
        training = LcmTraining(options)
        assert train(training, tmp_path / "run.ckpt", 1, steps, None, shown.append) == steps
    assert shown == [2, 3]
    assert all(torch.equal(value, base[0].state_dict()[name]) for name, value in training.base.state_dict().items())
    latents = [sample_lcm(training.unet, base[1], [CAPTION], seed=0, steps=2, cfg=cfg) for cfg in (1.0, 1.0, 2.0)]
    assert torch.equal(latents[0], latents[1]) and not torch.equal(latents[0], latents[2])

    path = tmp_path / "toon_lcm.safetensors"
    write_half(path, training.tensors(), training.about)
    header = read_header(path)
    assert header.metadata["rank"] == "16" and all(key.startswith("lora_unet_") for key in header.tensors)
    assert {key.rpartition(".")[2] for key in header.tensors} == {"weight", "alpha"}


@pytest.mark.parametrize(
    ("arm", "word"), [("lcm", "none of"), ("euler 6", "none of"), ("lcm 6 + x", "none of"), ("lcm 0", "0")]
)
def test_arms_that_do_not_exist(arm, word, capsys):
    assert evaluate_steps.main(["--arms", arm]) == 1
    assert arm in (said := capsys.readouterr().err) and word in said


def test_a_missing_lora_is_named(tmp_path, capsys):
    assert evaluate_steps.main(["--lora", str(tmp_path / "none.safetensors")]) == 1
    assert "making.train lcm" in capsys.readouterr().err
