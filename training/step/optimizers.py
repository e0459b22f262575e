"""The optimizers of temporal layers, the rate of each parameter and step, and the moving average of the weights."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...commands.config import ConfigError
from ..config.train import TrainConfig


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


def learning_rate_scale(step: int, warmup: int, progress: float) -> float:
    """Return a linear warm-up over `warmup` steps, times a cosine from 1 at progress 0 to 0 at progress 1."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def make_optimizer(layers: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return the config's optimizer of the layers' parameters. Raises ConfigError where it cannot run."""
    groups = parameter_groups(layers, config)
    if config.optimizer == "muon":
        return Muon(groups, betas=config.betas)
    if config.optimizer == "adamw8bit":
        if device.type == "cpu":
            raise ConfigError("optimizer: adamw8bit works on a GPU only; take adamw on a CPU")
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ConfigError(
                f"optimizer: adamw8bit needs bitsandbytes ({error}); pip install bitsandbytes, or take adamw"
            ) from None
        return AdamW8bit(groups, betas=config.betas)
    # Without `fused`, a step on a GPU briefly holds copies of all gradients and moments.
    return torch.optim.AdamW(groups, betas=config.betas, fused=True if device.type == "cuda" else None)


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, Jordan et al.


class Muon(torch.optim.Optimizer):
    """Muon for parameter groups with `orthogonal=True`, whose parameters are matrices; AdamW for all others.

    Matrices move along the orthogonal part of their momentum, so that no direction dominates the others. Rates and
    decay mean the same for both: a step changes a matrix as much, in root mean square, as AdamW's would.

    PyTorch has a Muon since 2.9, which computes in bf16 and takes matrices alone. This one runs on every PyTorch that
    ComfyUI runs on, orthogonalises in fp32, because most CPUs only imitate bf16, and is one optimizer for all
    parameters, so that a checkpoint has one state.

    Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the rate in AdamW's terms
    from Liu et al. 2025, "Muon is Scalable for LLM Training".
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(groups, {**defaults, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = (_orthogonal_update if group["orthogonal"] else _adam_update)(
                    parameter.grad, self.state[parameter], group
                )
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])


def _orthogonal_update(gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
    average = state.setdefault("momentum", torch.zeros_like(gradient))
    average.lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(average, group["momentum"])  # Nesterov's
    return orthogonal(ahead) * (0.2 * max(gradient.shape) ** 0.5)  # 0.2: about the size of AdamW's updates


def _adam_update(gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
    if not state:
        state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
    state["step"] += 1
    first, second = group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
    steps = float(state["step"])
    root = (state["exp_avg_sq"] / (1 - second**steps)).sqrt()
    return state["exp_avg"] / (1 - first**steps) / (root + group["eps"])


def orthogonal(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Return about U V^T of a matrix U S V^T, by Newton-Schulz iterations: the singular values come to lie near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Average:
    """Exponential moving average of a module's state; with a decay of 0 there is none.

    values: the averaged state by name, empty where there is none
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay = module, decay
        self.values: dict[str, torch.Tensor] = {}
        self.restart({})

    def restart(self, values: Mapping[str, torch.Tensor]) -> None:
        """Go on from these values; what is missing among them begins as it is in the module."""
        if self.decay:
            state = self.module.state_dict()
            self.values = {name: values.get(name, value).to(value, copy=True) for name, value in state.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the module after step `step`; a young average follows fast, so that it forgets the silent start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = self.module.state_dict()
        for name, value in self.values.items():
            value.lerp_(state[name], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module has the averaged state; its own where there is no average."""
        if not self.values:
            yield
            return
        kept = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(kept)
