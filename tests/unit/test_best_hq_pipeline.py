"""BestHQ inside diffusers' own SDXL pipelines, beside DPMSolverMultistepScheduler in the same pipeline."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)

import tiny
from sdxl_anime_video.schedulers.diffusers import SDXLAnime_BestHQScheduler

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4, norm_num_groups=8).eval()
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
        (StableDiffusionXLPipeline, {"height": 16, "width": 16, "num_inference_steps": 6}),
        (StableDiffusionXLImg2ImgPipeline, {"image": None, "strength": 0.6, "num_inference_steps": 10}),
    ],
)
def test_pipeline_gives_what_dpm_solver_gives(parts, kind, inputs):
    if "image" in inputs:
        inputs = {**inputs, "image": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))}
    pipeline = kind(scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1), **parts)
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
