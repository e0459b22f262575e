"""Bases: a diffusers folder as SDXL users have it, tiny and random."""

import json
import re

import pytest
import torch

from sdxl_anime_video.schedulers.best_hq import training_sigmas
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base, time_ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole SDXL pipeline folder: two text encoders with a byte-sized vocabulary, VAE, UNet, v-prediction."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from tiny import TinyConfig, diffusers_unet

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokenizer_files = tmp_path_factory.mktemp("tokenizer")
    (tokenizer_files / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer_files / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_files, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kinds = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = AutoencoderKL(
        3, 3, *kinds, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.13025
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=diffusers_unet(TinyConfig(widths=(64, 64), depth=(0, 1))),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
        ),
    )
    path = tmp_path_factory.mktemp("sdxl")
    pipe.save_pretrained(path)
    return path


def test_a_diffusers_folder_is_a_base(folder):
    base = load_base(str(folder))
    assert base.prediction == "v_prediction"
    torch.testing.assert_close(base.sigmas, training_sigmas(0.00085, 0.012, "scaled_linear", 1000))
    assert not any(p.requires_grad for module in (base.unet, base.vae) for p in module.parameters())
    tokens, pooled = base.encode_text(["", "run", "wave"])
    assert tokens.shape == (3, 77, 64)
    assert pooled.shape == (3, 64)
    assert not torch.equal(tokens[1], tokens[2])


def test_latents_are_the_scaled_posterior_means_and_pictures_come_back_in_range(folder):
    base = load_base(str(folder))
    frames = torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = base.encode(frames, batch=2)
    expected = base.vae.encode(frames[2:].permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean * 0.13025
    torch.testing.assert_close(latents[2:], expected, rtol=1e-4, atol=1e-5)
    pictures = base.decode(latents, batch=2)
    assert pictures.shape == (3, 16, 24, 3)
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_training_on_a_folder(folder, tmp_path):
    from sdxl_anime_video.benchmarks.making import paint_clips
    from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
    from sdxl_anime_video.training.run import verb as cli

    paint_clips.main([str(tmp_path / "clips"), "--count", "2", "--frames", "3", "--size", "16"])
    config = tmp_path / "config.yaml"
    clips, run = tmp_path / "clips", tmp_path / "run"
    config.write_text(f"base: {folder}\nclips: {clips}\noutput: {run}\nframes: [3]\nsteps: 1\n")
    assert cli.main([str(config)]) == 0
    said = load_adapter(run / "adapter.safetensors").metadata
    assert (said["trained_base"], said["trained_resolution"]) == (folder.name, "32x32")


def test_size_conditioning_puts_height_before_width():
    assert time_ids(576, 1024, 2).tolist() == [[576, 1024, 0, 0, 576, 1024]] * 2


def test_what_is_no_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("it has no unet/config.json; give a .safetensors file")):
        load_base(str(tmp_path))
