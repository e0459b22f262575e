"""The exponential moving average of a module in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


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
