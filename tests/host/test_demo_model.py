"""The toon model in ComfyUI against the same weights in diffusers and transformers, and with core's nodes."""

import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.samplers
import nodes as core
import pytest
import torch

from sdxl_anime_video.demo.comfy import VOCABULARY, load_toon_comfy, register_folders
from sdxl_anime_video.demo.model import END, PAD, SCALE, TOKENS, WEIGHTS, load_toon_diffusers, size_ids, tokenise
from sdxl_anime_video.demo.painter import HELD_OUT, TRAIN

CAPTION = "girl, blue hair, red dress, sunset, run"


@pytest.fixture(scope="module")
def toon():
    return load_toon_comfy()


@pytest.fixture(scope="module")
def reference():
    return load_toon_diffusers()


@torch.no_grad()
def relative(value, expected):
    return float((value - expected).norm() / expected.norm())


def encode(clip, text):
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)


def test_file_is_small():
    assert WEIGHTS.stat().st_size < 30e6


def test_our_token_ids_are_clips(toon):
    _, clip, _ = toon
    for caption in (*TRAIN[::97], *HELD_OUT[::29], ""):
        tokens = clip.tokenize(caption)
        for name, key in (("clip_l", "l"), ("clip_g", "g")):
            assert [token for token, _ in tokens[key][0]] == tokenise(caption, PAD[name])
    assert END in (token for token, _ in clip.tokenize("")["l"][0]) and len(TOKENS) == len(set(TOKENS.values()))


@pytest.mark.parametrize("text", [CAPTION, "", "a photograph of teapots"])
def test_text_towers_agree(toon, reference, text):
    context, pooled = encode(toon[1], text)
    # An unknown word is one token here and may be several in CLIP: compare values that do not depend on the count.
    if text.startswith("a photo"):
        assert torch.isfinite(context).all() and context.shape == (1, 77, 192)
        return
    expected, expected_pooled = reference[2]([text])
    assert relative(context, expected) < 1e-4
    assert relative(pooled, expected_pooled) < 1e-4


def test_unet_agrees(toon, reference):
    model, clip, _ = toon
    comfy.model_management.load_models_gpu([model])
    context, pooled = encode(clip, CAPTION)
    latent, timestep = torch.randn(2, 4, 16, 16), torch.tensor([700.0, 50.0])
    adm = model.model.encode_adm(pooled_output=pooled, width=128, height=96, crop_w=8, crop_h=4)
    ids = size_ids(2, 96, 128)
    ids[:, 2:4] = torch.tensor([4.0, 8.0])
    with torch.no_grad():
        ours = model.model.diffusion_model(latent, timestep, context=context.repeat(2, 1, 1), y=adm.repeat(2, 1))
        added = {"text_embeds": pooled.repeat(2, 1), "time_ids": ids}
        expected = reference[0](latent, timestep, context.repeat(2, 1, 1), added_cond_kwargs=added).sample
    assert relative(ours, expected) < 1e-5


def test_noise_schedule_is_sdxls(toon):
    sampling = toon[0].get_model_object("model_sampling")
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    assert torch.allclose(sampling.sigmas.double(), ((1 - kept) / kept).sqrt(), rtol=1e-4)
    assert toon[0].get_model_object("latent_format").scale_factor == SCALE


def test_vae_agrees(toon, reference):
    vae = toon[2]
    latent, image = torch.randn(2, 4, 16, 16), torch.rand(2, 128, 128, 3)
    with torch.no_grad():
        decoded = ((reference[1].decode(latent).sample + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
        posterior = reference[1].encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist
    assert relative(vae.decode(latent), decoded) < 1e-4
    # ComfyUI draws from the posterior; its deviation is small against the latents' own.
    assert ((vae.encode(image) - posterior.mean).abs() < 6 * posterior.std + 1e-3).all()


def test_core_nodes_render_a_clip(toon):
    model, clip, vae = toon
    positive = core.CLIPTextEncode().encode(clip, CAPTION)[0]
    negative = core.CLIPTextEncode().encode(clip, "")[0]
    empty = core.EmptyLatentImage().generate(128, 128, 2)[0]
    latent = core.KSampler().sample(model, 1, 3, 5.0, "dpmpp_2m", "karras", positive, negative, empty)[0]
    images = core.VAEDecode().decode(vae, latent)[0]
    assert images.shape == (2, 128, 128, 3) and torch.isfinite(images).all() and images.std() > 0.02
    again = core.VAEEncode().encode(vae, images)[0]["samples"]
    assert again.shape == (2, 4, 16, 16)


def test_lora_keys_cover_unet_and_towers(toon):
    model, clip, _ = toon
    unet = comfy.lora.model_lora_keys_unet(model.model, {})
    towers = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q" in unet
    assert "lora_te1_text_model_encoder_layers_0_mlp_fc1" in towers
    assert "lora_te2_text_model_encoder_layers_0_mlp_fc1" in towers


def test_lora_changes_the_model_and_only_the_clone(toon):
    model, clip, _ = toon
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    down, up = torch.randn(4, 128), torch.randn(128, 4)
    lora = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(4.0)}
    import comfy.sd

    patched, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    plain = model.get_key_patches("diffusion_model.middle_block")[name]
    assert len(plain) == 1 and len(patched.get_key_patches("diffusion_model.middle_block")[name]) == 2


def test_embedding_table_has_clips_size(toon):
    for name in PAD:
        table = getattr(toon[1].cond_stage_model, name).transformer.get_input_embeddings().weight
        assert table.shape[0] == VOCABULARY
        assert table.float().abs().sum(1).nonzero().numel() == len(TOKENS) + 3


def test_trained_latents_are_normalised(reference):
    from sdxl_anime_video.benchmarks.making.latents import encode as encode_frames
    from sdxl_anime_video.demo.painter import paint_clip

    frames = torch.cat([torch.from_numpy(paint_clip(c, 1, seed=i).frames) for i, c in enumerate(TRAIN[::48])]).numpy()
    latents = encode_frames(reference[1], frames) * SCALE
    assert latents.mean((0, 2, 3)).abs().max() < 0.15
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.15


def test_node_gives_the_model():
    from sdxl_anime_video.nodes.demo_model import DemoModel

    model, clip, vae = DemoModel.execute().args
    assert model.model.diffusion_model.model_channels == 128
    assert hasattr(clip, "tokenize") and vae.latent_channels == 4


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="restore it"):
        load_toon_comfy(tmp_path / "none.safetensors")


def test_companions_show_in_core_loaders(tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "loras" / "toon").mkdir(parents=True)
    (tmp_path / "loras" / "toon" / "style.safetensors").write_bytes(b"")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    register_folders(tmp_path)
    assert [name.replace("\\", "/") for name in folder_paths.get_filename_list("loras")] == ["toon/style.safetensors"]
    folder_paths.filename_list_cache.clear()
