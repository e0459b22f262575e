"""The frozen ControlNet that steers the keyframes of some batches: its file, and what it gives the UNet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...commands.config import ConfigError
from .batch import HintedFrames

_SHAPE = ("block_out_channels", "layers_per_block", "cross_attention_dim")
_POOLED = ("addition_embed_type", "projection_class_embeddings_input_dim")


def controlnet_config(name: str) -> dict[str, Any]:
    """Return diffusers' config of a ControlNet: `toon`, or a folder. Raises ConfigError if it is neither."""
    if name == "toon":
        from ...demo.controlnet import CONFIG

        return CONFIG
    if not (Path(name) / "config.json").is_file():
        raise ConfigError(f"controlnet: {name} is no diffusers folder, it has no config.json; give one, or toon")
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        kind = config.get("_class_name", "ControlNetModel")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"controlnet: {name}/config.json is damaged ({error}); copy or download it again") from None
    if kind != "ControlNetModel":
        raise ConfigError(f"controlnet: {name} holds a {kind}, no ControlNetModel; take a ControlNet of that kind")
    return config


def load_controlnet(name: str, dtype: torch.dtype | None = None) -> Any:
    """Return the ControlNetModel, frozen. Raises ConfigError if it cannot be read."""
    if name == "toon":
        from ...demo.controlnet import load_toon_controlnet

        network = load_toon_controlnet()
    else:
        network = _load_folder(name, dtype)
    network.requires_grad_(False).eval()
    return torch.nn.Module.to(network, dtype or torch.float32)  # past diffusers' own, which warns without a reason


def _load_folder(name: str, dtype: torch.dtype | None) -> Any:
    from diffusers import ControlNetModel

    read: Any = ControlNetModel.from_pretrained
    try:
        network, info = read(
            name, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"controlnet: {name} cannot be read: {error}; give a folder with config.json and "
            "diffusion_pytorch_model.safetensors"
        ) from None
    if missing := info["missing_keys"]:
        raise ConfigError(
            f"controlnet: {name} lacks {len(missing)} of its weights, such as {missing[0]}; download it again"
        )
    if not all(bool(value.isfinite().all()) for value in network.parameters()):
        raise ConfigError(f"controlnet: {name} holds values that are no numbers; download it again")
    return network


def require_fit(controlnet: str, unet_config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the ControlNet was not made for a UNet of this config."""
    has, wants = controlnet_config(controlnet), {**unet_config, "conditioning_channels": 3}
    names = [*_SHAPE, *(_POOLED if has.get("addition_embed_type") else ())]
    names += [name for name in ("conditioning_channels",) if name in has]
    shapes = [(name, _plain(has.get(name)), _plain(wants[name])) for name in names]
    if others := [f"{name} {one}, not {other}" for name, one, other in shapes if one != other]:
        raise ConfigError(
            f"controlnet: {controlnet} is for another kind of base ({'; '.join(others)}); take one for this base"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


@torch.no_grad()
def residuals(
    controlnet: Any,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    tokens: torch.Tensor,
    added: dict[str, torch.Tensor],
    hinted: HintedFrames,
) -> dict[str, Any]:
    """Return the ControlNet's output as the UNet takes it beside its inputs `[(b f) ...]`; zero without a hint."""
    frames = len(noisy) // len(hinted.pictures)
    rows = torch.arange(0, len(noisy), frames)[:, None] + hinted.rows  # [b, k]
    rows = rows.flatten().to(noisy.device)
    down, middle = controlnet(
        noisy[rows],
        timestep[rows],
        tokens[rows],
        controlnet_cond=hinted.pictures.flatten(0, 1).to(noisy.device, controlnet.dtype),
        added_cond_kwargs={name: value[rows] for name, value in added.items()},
        return_dict=False,
    )

    def among_all(some: torch.Tensor) -> torch.Tensor:
        return some.new_zeros(len(noisy), *some.shape[1:]).index_copy_(0, rows, some)

    return {
        "down_block_additional_residuals": tuple(map(among_all, down)),
        "mid_block_additional_residual": among_all(middle),
    }
