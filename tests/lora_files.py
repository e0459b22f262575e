"""LoRA files with random weights in every naming, for the toon model (or any other sizes), made at test time."""

from pathlib import Path

import torch
from safetensors.torch import save_file

Layers = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""diffusers' name of a layer with its pipeline's prefix -> (up `[out, rank, ...]`, down `[rank, in, ...]`)."""

_BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
TOON = {
    f"{_BLOCK}.attn1.to_q": (128, 128),
    f"{_BLOCK}.attn1.to_out.0": (128, 128),
    f"{_BLOCK}.attn2.to_k": (128, 192),
    f"{_BLOCK}.ff.net.0.proj": (1024, 128),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (64, 64),
    "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj": (128, 128),
}
TOON_CONV = {"unet.mid_block.resnets.0.conv1": (128, 128, 3, 3)}
SDXL = {"unet.mid_block.attentions.0.transformer_blocks.9.attn2.to_k": (1280, 2048)}
SD15 = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (320, 320),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768),
}
SD15_TEXT = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (768, 768)}
_SHORT = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def layers(sizes: dict[str, tuple[int, ...]], rank: int = 4, seed: int = 0) -> Layers:
    """Random layers that change a model visibly; convolutions are `[out, rank, 1, 1]` and `[rank, in, k, k]`."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (out, width, *kernel) in sizes.items():
        up = torch.randn(out, rank, *[1] * len(kernel), generator=generator)
        down = torch.randn(rank, width, *kernel, generator=generator)
        found[name] = up / rank**0.5, down / down[0].numel() ** 0.5
    return found


def kohya_name(name: str) -> str:
    prefix, rest = name.split(".", 1)
    return f"{_SHORT[prefix]}_{rest.replace('.', '_')}"


def _halves(some: Layers, up: str, down: str, rename=str) -> dict[str, torch.Tensor]:
    """The two matrices of each layer under these ends of its name."""
    ends = (up, down)
    return {f"{rename(name)}{end}": half for name, pair in some.items() for end, half in zip(ends, pair, strict=True)}


def kohya(some: Layers, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    """sd-scripts' names; with convolutions it is a LoCon."""
    alphas = {f"{kohya_name(name)}.alpha": torch.tensor(alpha) for name in some if alpha is not None}
    return _halves(some, ".lora_up.weight", ".lora_down.weight", kohya_name) | alphas


def loha(some: Layers) -> dict[str, torch.Tensor]:
    """LyCORIS' Hadamard product of two low-rank matrices."""
    found = {}
    for name, (up, down) in some.items():
        up, down = up.flatten(1), down.flatten(1)
        for which, sign in (("1", 1), ("2", -0.5)):
            found[f"{kohya_name(name)}.hada_w{which}_a"] = up * sign + 0.1
            found[f"{kohya_name(name)}.hada_w{which}_b"] = down + 0.1
        found[f"{kohya_name(name)}.alpha"] = torch.tensor(2.0)
    return found


def lokr(some: Layers) -> dict[str, torch.Tensor]:
    """LyCORIS' Kronecker product: a 2x2 matrix and the quarter of a layer, as a product of two."""
    found = {}
    for name, (up, down) in some.items():
        found[f"{kohya_name(name)}.lokr_w1"] = torch.tensor([[1.0, -0.5], [0.25, 2.0]])
        found[f"{kohya_name(name)}.lokr_w2_a"] = up[: len(up) // 2].contiguous()
        found[f"{kohya_name(name)}.lokr_w2_b"] = down[:, : down.shape[1] // 2].contiguous()
        found[f"{kohya_name(name)}.alpha"] = torch.tensor(4.0)
    return found


def diffusers_2023(some: Layers) -> dict[str, torch.Tensor]:
    """Attention processors' names, as diffusers wrote them first."""

    def rename(name: str) -> str:
        if ".attn" in name:
            return name.replace(".to_", ".processor.to_").removesuffix(".0") + "_lora"
        return f"{name}.lora_linear_layer"

    return _halves(some, ".up.weight", ".down.weight", rename)


def diffusers(some: Layers) -> dict[str, torch.Tensor]:
    """What `save_lora_weights` writes since then."""
    return _halves(some, ".lora.up.weight", ".lora.down.weight")


def diffusers_peft(some: Layers) -> dict[str, torch.Tensor]:
    """What it writes of models under PEFT."""
    return _halves(some, ".lora_B.weight", ".lora_A.weight")


def peft(some: Layers) -> dict[str, torch.Tensor]:
    """PEFT's own file of a UNet: no prefix of the pipeline."""
    unet = {name.removeprefix("unet"): pair for name, pair in some.items() if name.startswith("unet")}
    return {f"base_model.model{key}": value for key, value in diffusers_peft(unet).items()}


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, str(path), metadata or None)
    return path
