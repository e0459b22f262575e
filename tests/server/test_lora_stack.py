"""LoRA Stack and Sampling Preset on a real server: lists of files, what the page is shown, and refusals."""

import pytest

import lora_files as make
from sdxl_anime_video.headless.client import PromptError


@pytest.fixture(scope="module")
def loras(server):
    folder = server.base / "models" / "loras"
    make.write(folder / "style.safetensors", make.kohya(make.layers(make.TOON)))
    make.write(folder / "anime" / "toon_lcm.safetensors", make.kohya(make.layers(make.TOON, seed=1)))
    make.write(folder / "old.safetensors", make.kohya(make.layers(make.SD15)))


def graph(preset="lcm", cfg=None, **loras):
    """Two frames of the toon world, with the prompt's tags taken out."""
    stack = {"model": ["1", 0], "clip": ["1", 1], "prompt": "girl, <lora:style:0.8>, run", **loras}
    for row, weight in (("1", 0.8), ("2", 0.25), ("3", 0.6)):
        stack = {f"lora_{row}": "None", f"weight_{row}": weight, **stack}
    stack = {"speed_lora": "None", "speed_weight": 1.0, **stack}
    sampler = {
        "model": ["3", 0], "add_noise": True, "noise_seed": 1, "cfg": ["3", 3] if cfg is None else cfg,
        "positive": ["4", 0], "negative": ["4", 0], "sampler": ["3", 1], "sigmas": ["3", 2], "latent_image": ["5", 0],
    }  # fmt: skip
    return {
        "1": {"class_type": "SAV_DemoModel", "inputs": {}},
        "2": {"class_type": "SAV_LoraStack", "inputs": stack},
        "3": {"class_type": "SAV_SamplingPreset", "inputs": {"model": ["2", 0], "preset": preset, "steps": 4}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ["2", 2]}},
        "5": {"class_type": "SAV_EmptyVideoLatent", "inputs": {"width": 64, "height": 64, "frames": 2}},
        "6": {"class_type": "SamplerCustom", "inputs": sampler},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["2", 2]}},
    }


def test_a_clip_with_loras_in_four_steps(server, client, loras, quiet_log):
    outputs = client.run(graph(speed_lora="anime/toon_lcm.safetensors"))
    assert len(outputs["8"]["images"]) == 2
    assert outputs["9"]["text"] == ["girl, run"]
    (report,) = outputs["2"]["text"]
    assert "a tag of the prompt: style.safetensors" in report and "speed_lora: anime/toon_lcm.safetensors" in report
    assert outputs["3"]["text"] == ["LCM, uniform, 4 steps, CFG 1.7"]


def test_the_page_is_warned(server, client, loras):
    (text,) = client.run(graph(cfg=7.0))["3"]["text"]
    assert "no LCM LoRA leads to the model" in text and "node 6 (SamplerCustom) has CFG 7 of its own" in text
    assert "Sampling Preset: no LCM LoRA leads to the model" in server.log()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"lora_1": "gone.safetensors"}, "gone.safetensors"),
        ({"lora_1": "old.safetensors"}, "old.safetensors is a LoRA for Stable Diffusion 1.5"),
        ({"prompt": "girl, <lora:stile:0.8>"}, "did you mean 'style.safetensors'"),
        ({"weight_1": 50}, "weight_1"),
    ],
)
def test_refused_with_a_reason(client, loras, inputs, words):
    with pytest.raises(PromptError, match=words):
        client.run(graph(**inputs))
