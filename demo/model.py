"""The tiny SDXL in diffusers and transformers classes, and its weights."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

SCALE = 0.13025  # SDXL's latent scale factor
WEIGHTS = Path(__file__).parent / "weights" / "toon_base.safetensors"

VAE_WIDTHS = (32, 64, 64, 128)
VAE_GROUPS = 8  # groups of every GroupNorm: 32 groups of one channel would erase flat colours
UNET_WIDTHS = (128, 128)
HEAD = 64
# Lengths, special tokens and padding are CLIP's own; widths, layers and activations are ours.
LENGTH, START, END = 77, 49406, 49407
TOWERS = {
    "clip_l": {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 256, "hidden_act": "quick_gelu"},
    "clip_g": {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 512, "hidden_act": "gelu"},
}
PAD = {"clip_l": END, "clip_g": 0}
CONTEXT, POOLED = 64 + 128, 128
ENCODER = {  # the UNet's half that a ControlNet repeats, in diffusers' terms
    "block_out_channels": UNET_WIDTHS,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * len(UNET_WIDTHS),
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": tuple(width // HEAD for width in UNET_WIDTHS),
    "use_linear_projection": True,
}

# CLIP's token ids of the words that the captions use (each is a single token).
TOKENS: dict[str, int] = (
    {",": 267, "girl": 1611, "boy": 1876, "cat": 2368}
    | {"red": 736, "blue": 1746, "green": 1901, "blonde": 10711, "purple": 5496, "white": 1579, "black": 1449}
    | {"hair": 2225, "dress": 2595, "shirt": 2523, "coat": 7356}
    | {"sunset": 3424, "night": 930, "meadow": 17195, "snow": 2583}
    | {"run": 1934, "jump": 6423, "wave": 4535, "turn": 2105, "pan": 7437, "zoom": 13909}
)
# Rows of the stored token embeddings. Every other CLIP token reads as a row of zeros (index 0). The end token must not
# be row 2: transformers takes an end token 2 for an old configuration and pools at the largest id instead.
ROWS: tuple[int, ...] = (-1, START, 0, END, *TOKENS.values())


def tokenise(text: str, pad: int) -> list[int]:
    """CLIP ids `[77]` of a plain caption, padded with `pad`; a word outside of the world becomes -1."""
    words = re.findall(r"[a-z]+|,", text.lower())[: LENGTH - 2]
    ids = [START, *(TOKENS.get(word, -1) for word in words), END]
    return ids + [pad] * (LENGTH - len(ids))


def tower_config(name: str, vocabulary: int) -> dict:
    """Configuration of a text tower, in transformers' and ComfyUI's common names."""
    width = TOWERS[name]["hidden_size"]
    return {
        **TOWERS[name],
        "num_attention_heads": width // HEAD,
        "max_position_embeddings": LENGTH,
        "projection_dim": width,
        "vocab_size": vocabulary,
        "layer_norm_eps": 1e-5,
        "eos_token_id": END,
    }


class TextStack(nn.Module):
    """SDXL's two CLIP towers, small: penultimate hidden states of both side by side, pooled from the second."""

    def __init__(self) -> None:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        super().__init__()
        # The towers see row numbers instead of CLIP ids, the end token included.
        special = {"bos_token_id": ROWS.index(START), "eos_token_id": ROWS.index(END), "pad_token_id": None}
        for name in TOWERS:
            config = CLIPTextConfig(**{**tower_config(name, len(ROWS)), **special})
            setattr(self, name, CLIPTextModelWithProjection(config))
        self._row = {token: row for row, token in enumerate(ROWS)}

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Context `[B,77,192]` and pooled `[B,128]`."""
        hidden, pooled = [], torch.empty(0)
        for name in TOWERS:
            rows = [[self._row[token] for token in tokenise(caption, PAD[name])] for caption in captions]
            tower = getattr(self, name)
            ids = torch.tensor(rows, device=tower.text_projection.weight.device)
            output = tower(input_ids=ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output.text_embeds
        return torch.cat(hidden, dim=-1), pooled

    def blank_unknown(self) -> None:
        """Zero the row of unknown words, as it is outside of this class."""
        with torch.no_grad():
            for name in TOWERS:
                getattr(self, name).text_model.embeddings.token_embedding.weight[0] = 0


def new_unet():
    """A freshly initialised UNet2DConditionModel of SDXL's make."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        **ENCODER,
        sample_size=16,
        up_block_types=("CrossAttnUpBlock2D",) * len(UNET_WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256,
    )
    # As in the original UNet (arXiv:2105.05233): every residual branch and the output start at zero.
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def size_ids(batch: int, height: int = 128, width: int = 128) -> Tensor:
    """SDXL's `[B,6]`: original height and width, crop top and left, target height and width."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(batch, 1)


def new_vae():
    """A freshly initialised AutoencoderKL."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=VAE_GROUPS,
        sample_size=128,
        scaling_factor=SCALE,
    )
    # Start with a sharp posterior: at a deviation of 1 the first hundreds of steps would only learn to shrink it.
    with torch.no_grad():
        vae.quant_conv.weight[4:] *= 0.1
        vae.quant_conv.bias[4:] = -6.0
    return vae


def load_toon_diffusers(path: Path = WEIGHTS):
    """(UNet2DConditionModel, AutoencoderKL, TextStack) with the committed weights, float32, in evaluation mode.

    Raises FileNotFoundError when the weights are missing, RuntimeError when they do not fit.
    """
    from safetensors.torch import load_file

    stored = load_file(path)
    modules = {"unet": new_unet(), "vae": new_vae(), "text": TextStack()}
    for name, module in modules.items():
        mine = {key[len(name) + 1 :]: value.float() for key, value in stored.items() if key.startswith(f"{name}.")}
        module.load_state_dict(mine)
        module.eval().requires_grad_(False)
    return modules["unet"], modules["vae"], modules["text"]
