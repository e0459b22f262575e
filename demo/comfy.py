"""The tiny SDXL as ordinary ComfyUI objects: core nodes see a small SDXL and nothing else."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .model import CONTEXT, PAD, POOLED, ROWS, TOWERS, UNET_WIDTHS, VAE_GROUPS, VAE_WIDTHS, WEIGHTS, tower_config

VOCABULARY = 49408  # of CLIP's tokenizer
COMPANIONS = ("temporal_adapters", "animatediff_models", "loras", "controlnet")


def unet_config() -> dict:
    """`UNET_WIDTHS` and companions in the terms of ComfyUI's UNetModel."""
    levels = len(UNET_WIDTHS)
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": UNET_WIDTHS[0],
        "channel_mult": [width // UNET_WIDTHS[0] for width in UNET_WIDTHS],
        "num_res_blocks": [1] * levels,
        "transformer_depth": [1] * levels,
        "transformer_depth_output": [1] * (2 * levels),
        "transformer_depth_middle": 1,
        "context_dim": CONTEXT,
        "adm_in_channels": POOLED + 6 * 256,
        "num_classes": "sequential",
        "use_linear_in_transformer": True,
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "use_checkpoint": False,
        "legacy": False,
    }


def _part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in stored.items() if key.startswith(prefix)}


def _load_model(stored: dict[str, Tensor]):
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    class ToonSDXL(comfy.supported_models.SDXL):
        """SDXL's sampling, conditioning and latent format around a small UNet."""

    config = ToonSDXL(unet_config())
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names[key]: value for key, value in stored.items()}
    device = management.get_torch_device()
    supported = list(config.supported_inference_dtypes)
    parameters = sum(value.numel() for value in weights.values())
    dtype = management.unet_dtype(device, parameters, supported_dtypes=supported)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    model = config.get_model(weights, device=management.unet_offload_device())
    model.load_model_weights(weights)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    return patcher


def _load_clip(stored: dict[str, Tensor]):
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base

    weights = {}
    for name in TOWERS:
        tower = _part(stored, f"{name}.")
        key = "text_model.embeddings.token_embedding.weight"
        table = torch.zeros(VOCABULARY, tower[key].shape[1], dtype=tower[key].dtype)
        table[list(ROWS[1:])] = tower[key][1:]
        tower[key] = table
        weights |= {f"{name}.transformer.{rest}": value for rest, value in tower.items()}
    options = {f"{name}_model_config": tower_config(name, VOCABULARY) for name in TOWERS}
    target = comfy.supported_models_base.ClipTarget(ToonTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options=options)
    clip.load_sd(weights, full_model=True)
    return clip


def ToonTokenizer(embedding_directory=None, tokenizer_data=None):
    """SDXL's own tokenizers; textual-inversion embeddings are expected at the towers' widths."""
    import comfy.sdxl_clip

    tokenizer = comfy.sdxl_clip.SDXLTokenizer(
        embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}
    )
    for name in PAD:
        getattr(tokenizer, name).embedding_size = TOWERS[name]["hidden_size"]
    return tokenizer


def vae_config(width: int, multiples: Sequence[int], blocks: int) -> dict:
    """An SDXL VAE of other widths, and `blocks` residual blocks a level, in the terms of ComfyUI's AutoencoderKL."""
    layout = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": list(multiples),
        "num_res_blocks": blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"ddconfig": layout, "embed_dim": 4}


def _load_vae(stored: dict[str, Tensor]):
    import comfy.sd

    config = vae_config(VAE_WIDTHS[0], [width // VAE_WIDTHS[0] for width in VAE_WIDTHS], 1)
    vae = comfy.sd.VAE(sd=dict(stored), config={"params": config})
    for module in vae.first_stage_model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = VAE_GROUPS
    return vae


def load_toon_comfy(path: Path = WEIGHTS):
    """(MODEL, CLIP, VAE) with the committed weights.

    Raises FileNotFoundError that says how to make the weights when they are missing.
    """
    import comfy.utils

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; restore it from the repository or make it with "
            "`python -m sdxl_anime_video.benchmarks.making.train vae` and `... base`"
        )
    stored = comfy.utils.load_torch_file(str(path), safe_load=True)
    return _load_model(_part(stored, "unet.")), _load_clip(_part(stored, "text.")), _load_vae(_part(stored, "vae."))


def register_folders(weights: Path = WEIGHTS.parent) -> None:
    """Add the toon companions to ComfyUI's loaders: <weights>/<kind>/toon/<file> shows as toon/<file>.

    Kinds without companions are skipped, so that ComfyUI searches no empty folder.
    """
    import folder_paths

    for kind in COMPANIONS:
        folder = weights / kind
        if folder.is_dir():
            folder_paths.add_model_folder_path(kind, str(folder))
