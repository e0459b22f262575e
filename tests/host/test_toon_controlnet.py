"""The toon ControlNet's file in core's loader, beside the same network in diffusers."""

import logging

import comfy.controlnet
import comfy.model_management
import pytest
import torch

from sdxl_anime_video.benchmarks.making.controlnet import controlnet_tensors, new_controlnet
from sdxl_anime_video.benchmarks.making.loop import write_half
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.demo.model import load_toon_diffusers
from tiny import randomise

CAPTION = "girl, blue hair, red dress, sunset, run"


@pytest.fixture(scope="module")
def network():
    unet, _, text = load_toon_diffusers()
    made = new_controlnet(unet, text, torch.rand(2, 3, 128, 128)).eval()
    randomise(made, seed=3)
    return made.half().float(), text  # as the file holds it


def test_core_loads_it(network, tmp_path, caplog):
    made, text = network
    path = tmp_path / "toon_pose.safetensors"
    with caplog.at_level(logging.WARNING):
        write_half(path, controlnet_tensors(made), {"title": "test"})
        control = comfy.controlnet.load_controlnet(str(path))
    assert not [record.message for record in caplog.records if "missing" in record.message]
    assert path.stat().st_size < 8e6 and [file.name for file in tmp_path.iterdir()] == [path.name]

    model = load_toon_comfy()[0].model
    x, hints, sigma = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 128, 128), torch.full((2,), 5.0)
    context, pooled = text([CAPTION, ""])
    control.set_cond_hint(hints)
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    comfy.model_management.load_models_gpu(control.get_models())
    with torch.no_grad():
        told = {"c_crossattn": context, "y": model.encode_adm(pooled_output=pooled, width=128, height=128)}
        found = control.get_control(x, sigma, told, 1, {})
        timestep = model.model_sampling.timestep(sigma).float()
        scaled = model.model_sampling.calculate_input(sigma, x)
        down, middle = made(scaled, timestep, context, controlnet_cond=hints, return_dict=False)
    for ours, expected in zip([*found["output"], *found["middle"]], [*down, middle], strict=True):
        assert (ours - expected).norm() < 1e-4 * expected.norm()
