"""Noise levels of a MODEL's clone that core cannot mistake for those of the checkpoint.

Between 0.16 and about 0.45, core with dynamic VRAM saves a loaded model's buffers by their path and later writes them
to whatever object stands at that path (Comfy-Org/ComfyUI issue 16490). So the noise levels of a patched
`model_sampling` would stay in the next plain run of the checkpoint. Levels that are no buffers are not saved.
"""

from functools import cache
from typing import Any

import torch

_LEVELS = ("sigmas", "log_sigmas")


class OwnSigmas:
    """Keeps the noise levels of one of core's model samplings as attributes, on the CPU, as core's methods allow."""

    def set_sigmas(self, sigmas: torch.Tensor) -> None:
        sigmas = sigmas.cpu()
        self.sigmas, self.log_sigmas = sigmas.float(), sigmas.log().float()

    def register_buffer(self, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        """Refuse noise levels, because they are those that core has saved of another object."""
        if name not in _LEVELS:
            super().register_buffer(name, tensor, persistent)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def with_own_sigmas(kind: type) -> Any:
    """Return a class of model sampling that keeps its noise levels to itself; one that does already stays."""
    return kind if issubclass(kind, OwnSigmas) else type(kind.__name__, (OwnSigmas, kind), {"__module__": __name__})
