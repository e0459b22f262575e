"""A tiny SDXL-family UNet with random weights, as a ComfyUI MODEL and as a diffusers UNet with the same weights.

The family traits are SDXL's own: head size 64, linear projections, text_time conditioning, epsilon prediction on
scaled-linear betas. Every parameter is random, those that a fresh network starts at zero included, so that no path is
silent. ComfyUI and diffusers are imported where they are used.
"""

from dataclasses import dataclass

import torch

TIME_IDS = 6 * 256  # height, width, crop top, crop left, target height, target width: 256 sinusoids each


@dataclass(frozen=True)
class TinyConfig:
    """widths: channels of each level; depth: transformer blocks in each attention of a level, 0 for none."""

    widths: tuple[int, ...] = (64, 128, 128)
    depth: tuple[int, ...] = (0, 1, 2)
    res_blocks: int = 1
    context: int = 64  # width of a text token
    pooled: int = 64  # width of the pooled text

    def comfy(self) -> dict:
        """The `unet_config` of ComfyUI's UNetModel."""
        base = self.widths[0]
        return {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": base,
            "num_res_blocks": [self.res_blocks] * len(self.widths),
            "channel_mult": [width // base for width in self.widths],
            "transformer_depth": [d for d in self.depth for _ in range(self.res_blocks)],
            "transformer_depth_output": [d for d in self.depth for _ in range(self.res_blocks + 1)],
            "transformer_depth_middle": self.depth[-1],
            "context_dim": self.context,
            "adm_in_channels": self.pooled + TIME_IDS,
            "num_classes": "sequential",
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "legacy": False,
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
        }

    def diffusers(self) -> dict:
        """The constructor arguments of diffusers' UNet2DConditionModel."""
        kinds = ["CrossAttn" if d else "" for d in self.depth]
        return {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": self.widths,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            "layers_per_block": self.res_blocks,
            "transformer_layers_per_block": tuple(max(d, 1) for d in self.depth),
            "attention_head_dim": tuple(
                width // 64 for width in self.widths
            ),  # diffusers' name for the number of heads
            "cross_attention_dim": self.context,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": self.pooled + TIME_IDS,
        }


TINY = TinyConfig()
# Attention at every level, as small UNets with few levels have it.
ALL_LEVELS = TinyConfig(widths=(64, 128), depth=(1, 2))


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Seeded random values for every parameter: matrices of unit gain, norms around 1, biases around 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(value / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(value * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def diffusers_unet(config: TinyConfig = TINY, seed: int = 0):
    """diffusers' UNet2DConditionModel on the CPU in fp32, eval mode."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**config.diffusers())
    randomise(unet, seed)
    return unet.eval()


def comfy_model(config: TinyConfig = TINY, seed: int = 0):
    """ComfyUI's ModelPatcher of model_base.SDXL with the weights of `diffusers_unet(config, seed)`."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    model_config = comfy.supported_models.SDXL(config.comfy())
    model_config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SDXL(model_config, device=torch.device("cpu"))

    names = comfy.utils.unet_to_diffusers(model_config.unet_config)
    source = diffusers_unet(config, seed).state_dict()
    model.diffusion_model.load_state_dict({names[key]: value for key, value in source.items()}, strict=True)
    model = model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, comfy.model_management.get_torch_device(), torch.device("cpu"))


def control_net(config: TinyConfig = TINY, seed: int = 7, **changes) -> torch.nn.Module:
    """ComfyUI's network of a ControlNet for that SDXL with random weights; `changes` of its layout."""
    import comfy.cldm.cldm
    import comfy.ops

    layout = {**config.comfy(), "num_head_channels": 64, "hint_channels": 3, **changes}
    for name in ("out_channels", "transformer_depth_output"):
        layout.pop(name)
    network = comfy.cldm.cldm.ControlNet(**layout, operations=comfy.ops.disable_weight_init, device="cpu")
    randomise(network, seed)
    return network.requires_grad_(False)


def conditioning(config: TinyConfig = TINY, seed: int = 0, tokens: int = 77, **extra) -> list:
    """A ComfyUI CONDITIONING of one random prompt; `extra` goes into its dictionary (area, strength, control...)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    text = torch.randn(1, tokens, config.context, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, config.pooled, generator=generator), **extra}]]


def latent(frames: int = 4, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    """A random latent [frames, 4, height, width]."""
    return torch.randn(frames, 4, height, width, generator=torch.Generator().manual_seed(2000 + seed))


def traces(unet: torch.nn.Module) -> dict:
    """Everything of a UNet that attaching layers might touch: tensors, attributes, submodules and hooks by module."""
    tensors = {name: id(value) for name, value in unet.state_dict(keep_vars=True).items()}
    modules = {
        name: (id(module), list(module.__dict__), [len(v) for k, v in module.__dict__.items() if "hooks" in k])
        for name, module in unet.named_modules()
    }
    return {"tensors": tensors, "modules": modules}


def unet_inputs(frames: int, clips: int = 2) -> dict:
    """Keyword arguments of the tiny diffusers UNet: random latents and texts, one text a clip."""
    text, pooled = (torch.randn(clips, *size).repeat_interleave(frames, 0) for size in ((77, 64), (64,)))
    return {
        "sample": latent(clips * frames, 8, 8),
        "timestep": torch.tensor(400),
        "encoder_hidden_states": text,
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.full((clips * frames, 6), 64.0)},
        "return_dict": False,
    }


@torch.no_grad()
def call(unet: torch.nn.Module, inputs: dict, **keywords) -> torch.Tensor:
    """The output of a diffusers UNet."""
    return unet(**inputs, **keywords)[0]
