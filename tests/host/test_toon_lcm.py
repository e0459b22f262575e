"""The toon LCM LoRA's file in LoRA Stack, beside the same LoRA in diffusers, and the program that judges it."""

import argparse

import comfy.model_management
import folder_paths
import pytest
import torch

from sdxl_anime_video.benchmarks.judging import steps as evaluate_steps
from sdxl_anime_video.benchmarks.making.lcm import lora_tensors, with_lora
from sdxl_anime_video.benchmarks.making.loop import write_half
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.demo.model import WEIGHTS, load_toon_diffusers
from sdxl_anime_video.nodes.lora_stack import LoraStack
from tiny import randomise

CAPTION = "girl, blue hair, red dress, sunset, run"


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """(UNet with a random LoRA as its file holds it, text towers, the file)."""
    unet, _, text = load_toon_diffusers()
    unet, trained = with_lora(unet, rank=2)
    randomise(trained, seed=3)
    with torch.no_grad():
        for value in trained:
            value.copy_((0.2 * value).half())
    path = tmp_path_factory.mktemp("loras") / "toon_lcm.safetensors"
    write_half(path, lora_tensors(unet), {"title": "test"})
    folder_paths.add_model_folder_path("loras", str(path.parent))
    return unet.eval(), text, path


def test_lora_stack_applies_all_of_it(lora):
    unet, text, path = lora
    model, clip, _ = load_toon_comfy()
    quick, _, _, report = LoraStack.execute(model, clip, speed_lora=path.name).result
    assert "unmatched" not in report.lower()
    x, sigma = torch.randn(2, 4, 16, 16), torch.full((2,), 5.0)
    context, pooled = text([CAPTION, ""])
    comfy.model_management.load_models_gpu([quick])
    with torch.no_grad():
        base = quick.model
        y = base.encode_adm(pooled_output=pooled, width=128, height=128)
        scaled, timestep = base.model_sampling.calculate_input(sigma, x), base.model_sampling.timestep(sigma).float()
        found = base.diffusion_model(scaled, timestep, context, y=y)
        ids = torch.tensor([[128, 128, 0, 0, 128, 128]] * 2).float()
        told = {"text_embeds": pooled, "time_ids": ids}
        expected = unet(scaled, timestep, context, added_cond_kwargs=told).sample
        unet.disable_adapters()
        plain = unet(scaled, timestep, context, added_cond_kwargs=told).sample
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (plain - expected).norm() > 0.01 * expected.norm()


def options_for(path, output):
    return argparse.Namespace(
        adapter=WEIGHTS.parent / "temporal_adapters/toon/toon_adapter.safetensors",
        lora=path,
        weight=1.0,
        output=output,
        pairs=1,
        arms=["painted", "lcm 1", "lcm 1 + lora"],
        frames=2,
        cfg=[3.0, 1.0],
        correlation=0.85,
        seed=0,
        shown=1,
    )


def test_a_damaged_lora_is_named(lora, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(lora[2].read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.safetensors .*[Dd]ownload"):
        evaluate_steps.run(options_for(path, tmp_path / "out"), {})


def test_arms_are_rendered_and_judged(lora, tmp_path):
    options = options_for(lora[2], tmp_path / "out")
    table = evaluate_steps.run(options, evaluate_steps.parse_arms(options))
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == options.arms
    assert {path.name for path in options.output.iterdir()} == {"table.md", "results.json", "sheet.png"}
