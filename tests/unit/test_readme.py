"""The Python lines of the README make a clip, with the toon model in place of the checkpoint."""

import re
import runpy
import shutil

import pytest
import torch

from sdxl_anime_video.demo.model import END, ROWS, START, WEIGHTS, load_toon_diffusers, tower_config
from sdxl_anime_video.media.reader import read_clip
from sdxl_anime_video.temporal.hosts.diffusers.single_file import CONFIGS
from sdxl_anime_video.temporal.measure import metrics

VOCABULARY = 49408  # of CLIP's tokenizer


def with_clips_vocabulary(kind, name, tower):
    """A text tower that reads CLIP's token ids, where the stored one reads row numbers."""
    from transformers import CLIPTextConfig

    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END if name == "clip_l" else 0}
    made = kind(CLIPTextConfig(**{**tower_config(name, VOCABULARY), **ids}))
    found = tower.state_dict()
    found |= {key.removeprefix("text_model."): value for key, value in found.items()}  # as some versions name them
    state = {key: found[key] for key in made.state_dict()}
    key = next(key for key in state if key.endswith("token_embedding.weight"))
    rows = state[key]
    state[key] = rows[0].repeat(VOCABULARY, 1)  # row 0 is that of an unknown word
    for token, row in zip(ROWS[1:], rows[1:], strict=True):
        state[key][token] = row
    made.load_state_dict(state)
    return made.eval()


@pytest.fixture
def toon(tmp_path):
    """A diffusers folder of the toon model, under the name that the README gives."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    unet, vae, text = load_toon_diffusers()
    tokenizers = [
        CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", model_max_length=77, **more)
        for more in ({}, {"pad_token": "!"})
    ]
    StableDiffusionXLPipeline(
        unet=unet,
        vae=vae,
        text_encoder=with_clips_vocabulary(CLIPTextModel, "clip_l", text.clip_l),
        text_encoder_2=with_clips_vocabulary(CLIPTextModelWithProjection, "clip_g", text.clip_g),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler=EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear"),
        force_zeros_for_empty_prompt=False,
    ).save_pretrained(tmp_path / "stabilityai" / "stable-diffusion-xl-base-1.0")
    adapter = WEIGHTS.parent / "temporal_adapters" / "toon" / "toon_adapter.safetensors"
    shutil.copy(adapter, tmp_path / "adapter.safetensors")
    return tmp_path


def test_the_lines_make_a_clip(toon, repository, monkeypatch):
    section = (repository / "README.md").read_text("utf-8").partition("## In Python")[2]
    lines = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    for many, few in {"16": "6", '"num_inference_steps": 28': '"num_inference_steps": 8'}.items():
        assert many in lines
        lines = lines.replace(many, few)
    monkeypatch.chdir(toon)
    torch.manual_seed(0)
    (toon / "lines.py").write_text(lines, "utf-8")
    space = runpy.run_path("lines.py")
    clip, fps = read_clip("clip.mp4")
    assert clip.shape == (6, 128, 128, 3) and fps == 8
    space["pipe"].unet.strength = 0.0
    alone = space["pipe"]("girl, blue hair, sunset, run", **space["settings"]).images
    assert metrics.flicker(clip) < 0.7 * metrics.flicker(alone)
