"""The optimizers of temporal layers, with the rate and decay of each parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...commands.config import ConfigError
from ..config.train import TrainConfig
from .muon import Muon


def parameter_groups(layers: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups: gates and positions with rates of their own, decay on matrices only."""
    rate = config.learning_rate
    groups = {
        "matrix": {"params": [], "peak": rate, "weight_decay": config.weight_decay, "orthogonal": True},
        "vector": {"params": [], "peak": rate, "weight_decay": 0.0},
        "gate": {"params": [], "peak": config.gate_learning_rate or rate, "weight_decay": 0.0},
        "position": {"params": [], "peak": config.position_learning_rate or rate, "weight_decay": 0.0},
    }
    for name, parameter in layers.named_parameters():
        kind = {"gate": "gate", "pos_emb": "position", "pos_value": "position"}.get(name.rsplit(".", 1)[-1])
        groups[kind or ("matrix" if parameter.ndim > 1 else "vector")]["params"].append(parameter)
    return [{**group, "lr": group["peak"]} for group in groups.values() if group["params"]]


def require_optimizer(config: TrainConfig, device: torch.device) -> None:
    """Raise ConfigError where the config's optimizer cannot run."""
    if config.optimizer != "adamw8bit":
        return
    if device.type == "cpu":
        raise ConfigError("optimizer: adamw8bit works on a GPU only; take adamw on a CPU")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"optimizer: adamw8bit needs bitsandbytes ({error}); pip install bitsandbytes, or take adamw"
        ) from None


def make_optimizer(layers: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return the config's optimizer of the layers' parameters. Raises ConfigError where it cannot run."""
    require_optimizer(config, device)
    groups = parameter_groups(layers, config)
    if config.optimizer == "muon":
        return Muon(groups, betas=config.betas)
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, betas=config.betas)
    # Without `fused`, a step on a GPU briefly holds copies of all gradients and moments.
    return torch.optim.AdamW(groups, betas=config.betas, fused=True if device.type == "cuda" else None)
