"""What every kind of temporal layers has in common: sites, limits, metadata, a description.

A new kind is a subclass here, a file format in `weights/formats.py`, and a way into a UNet in each host.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn


class TemporalLayers(nn.Module):
    """One module at each site of a UNet, under the names of the file.

    config: holds `sites` (site -> shape, in the order of the file), `max_frames` (learned positions) and options
    metadata: of the file, read or to be written
    new_site: makes the module of a site from its shape
    """

    kind: ClassVar[str]  # the name in messages
    silence: ClassVar[str]  # the values that make the layers silent, in messages
    file_name: ClassVar[str]  # of the trainer's result
    every_site: ClassVar[bool] = False  # whether a model must not have more sites than the layers

    def __init__(self, config: Any, metadata: Mapping[str, str] | None, new_site: Callable[[Any], nn.Module]):
        super().__init__()
        self.config = config
        self.metadata = dict(metadata or {})
        for site, shape in config.sites.items():
            parent: nn.Module = self
            *folders, last = self.module_path(site).split(".")
            for folder in folders:
                if folder not in parent._modules:
                    parent.add_module(folder, nn.Module())
                parent = parent.get_submodule(folder)
            parent.add_module(last, new_site(shape))

    @classmethod
    def around(cls, config: Any, state: Mapping[str, torch.Tensor], **keywords: Any) -> Any:
        """Return layers around these tensors, which are not copied. keywords: as for the class."""
        layers = cls(config, device="meta", **keywords)
        layers.load_state_dict(state, assign=True)
        return layers

    @staticmethod
    def module_path(site: Any) -> str:
        """Return the path of a site's module in the layers."""
        raise NotImplementedError

    @staticmethod
    def describe_shape(shape: Any) -> str:
        """Return the shape of a site in words."""
        return f"{shape} channels"

    def site(self, site: Any) -> Any:
        """Return the module at a site."""
        return self.get_submodule(self.module_path(site))

    @property
    def sites(self) -> Mapping[Any, Any]:
        """Site -> shape."""
        return self.config.sites

    @property
    def max_frames(self) -> int:
        """Learned positions."""
        return self.config.max_frames

    @property
    def trained_frames(self) -> int | None:
        """Frames of a clip in training, None if the file does not say."""
        text = self.metadata.get("trained_frames", "")
        return int(text) if text.isdecimal() and len(text) < 10 else None

    @property
    def beta_schedule(self) -> tuple[float, float] | None:
        """(beta_start, beta_end) of the scaled-linear noise schedule of the training, None for the model's own."""
        return None

    def is_silent(self) -> bool:
        """Return whether the layers can have no effect, whatever they see."""
        raise NotImplementedError

    def silent_warning(self) -> str:
        """Return why the layers can have no effect, "" if they have one."""
        return f"{self.silence}, so this {self.kind} cannot move anything" if self.is_silent() else ""

    def title(self) -> str:
        """Return the first line of the description."""
        return self.kind

    def facts(self) -> list[str]:
        """Return lines of the description that only this kind has."""
        return []

    def describe(self) -> str:
        """Return a summary in lines of text."""
        counts = Counter(self.sites.values())
        shapes = ", ".join(f"{count} of {self.describe_shape(shape)}" for shape, count in sorted(counts.items()))
        dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in self.parameters()})
        lines = [
            self.title(),
            f"sites: {len(self.sites)} ({shapes})",
            f"parameters: {sum(value.numel() for value in self.parameters()):,} in {', '.join(dtypes)}",
            f"frames: up to {self.max_frames}, trained on {self.trained_frames or 'an unknown number'}",
            *self.facts(),
            *(f"{key}: {value}" for key, value in sorted(self.metadata.items()) if key.startswith("trained_")),
        ]
        if warning := self.silent_warning():
            lines.append(f"warning: {warning}")
        return "\n".join(lines)
