"""What a run trains, and a clip is rendered with: the temporal adapter, or a motion module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..commands.config import ConfigError
from ..temporal.hosts.diffusers.adapter import TemporalUNet, unet_sites
from ..temporal.hosts.diffusers.motion_module import MotionUNet, unet_channels
from ..temporal.layers.adapter import TemporalAdapter
from ..temporal.layers.motion_module import FORMATS, MotionConfig, MotionModule, Site
from ..temporal.weights.adapter_file import load_adapter, save_adapter
from ..temporal.weights.inspection import kind_of
from ..temporal.weights.motion_module_format import load_motion_module, save_motion_module

if TYPE_CHECKING:
    from ..temporal.hosts.diffusers.base import Base
    from ..training.config.train import TrainConfig

Temporal = TemporalAdapter | MotionModule
LINEAR = "scaled_linear"  # in the square root of beta: SDXL's noise schedule


def create(config: TrainConfig, unet: Any, betas: tuple[float, float] | None = None) -> Temporal:
    """What the config trains, new and silent, for this UNet. betas: the base's, which a motion module records.

    Raises ConfigError for places that the UNet does not have, and for widths that a motion module cannot have.
    """
    if config.kind == "adapter":
        return TemporalAdapter.create(
            unet_sites(unet),
            max_frames=config.max_frames,
            norm=config.norm,
            pos_value=config.pos_value,
            init=config.init,
        )
    channels = _places(config.motion_places, unet_channels(unet))
    module = MotionModule(
        MotionConfig(
            channels,
            config.kind,
            config.max_frames,
            attentions=config.motion_attentions,
            betas=betas if betas != FORMATS[config.kind].betas else None,
        )
    )
    module.reset_parameters()
    return module


FIELDS = {"format": "kind", "attentions": "motion_attentions"}
"""What the config calls a property of the weights, where the names differ."""


def require(config: TrainConfig, base: Base, resumed: bool = False) -> None:
    """Raise ConfigError if the config's kind, places and `start` do not go with the base.

    resumed: whether the run goes on from a checkpoint, which needs no `start` any more.
    """
    if config.kind != "adapter" and (schedule := base.scheduler_config.get("beta_schedule", LINEAR)) != LINEAR:
        raise ConfigError(f"base: its noise schedule is {schedule}; the file of a motion module can only hold {LINEAR}")
    with torch.device("meta"):
        new = create(config, base.unet)
    if config.start and not resumed:
        started(config.start, new)


def started(path: Path, new: Temporal) -> Temporal:
    """The adapter or motion module of a file, of the same make as a new one.

    Raises ConfigError that names what is wrong with it.
    """
    try:
        found = load(path)
    except ValueError as error:
        raise ConfigError(f"start: {path}: {error}") from None
    if type(found) is not type(new):
        wanted = "adapter" if isinstance(found, TemporalAdapter) else found.config.format
        raise ConfigError(f"start: {path} holds {title(found)} weights; set kind to {wanted}, or take another file")
    has, wants = vars(found.config), vars(new.config)
    fields = {**FIELDS, "sites": "base" if isinstance(new, TemporalAdapter) else "motion_places"}
    others = [
        f"{fields.get(name, name)}: the file has {_short(has[name], own)}, the run {_short(own, has[name])}"
        for name, own in wants.items()
        if name != "betas" and has[name] != own
    ]
    if others:
        raise ConfigError(
            f"start: {path} is of another make ({'; '.join(others)}); make the run like it, or take another"
        )
    return found


def _short(value: Any, other: Any) -> str:
    """A property of the weights; of places, those that the other does not have alike."""
    if not isinstance(value, Mapping):
        return str(value)
    own = [f"{getattr(site, 'path', site)} {size}" for site, size in value.items() if other.get(site) != size]
    return ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "") or "nothing else"


def _places(names: list[str] | None, channels: Mapping[Site, int]) -> dict[Site, int]:
    """The chosen places, or all on the way down and up, in the UNet's order."""
    known = {f"{site.direction}.{site.block}.{site.layer}": site for site in channels}
    if unknown := [name for name in names or () if name not in known]:
        raise ConfigError(f"motion_places: {', '.join(unknown)} is not in the base's UNet; it has {', '.join(known)}")
    chosen = names or [name for name, site in known.items() if site.direction != "mid"]
    return {site: channels[site] for name, site in known.items() if name in chosen}


def file_name(config: TrainConfig) -> str:
    """What the run's weights are called in its folder."""
    return "adapter.safetensors" if config.kind == "adapter" else "motion_module.safetensors"


def title(temporal: Temporal) -> str:
    """What messages call it."""
    return "adapter" if isinstance(temporal, TemporalAdapter) else "motion module"


def put_on(unet: Any, temporal: Temporal) -> TemporalUNet | MotionUNet:
    """The UNet with it, until `detach()`. Raises AdapterError or MotionModuleError if it does not fit."""
    return TemporalUNet(unet, temporal) if isinstance(temporal, TemporalAdapter) else MotionUNet(unet, temporal)


def save(temporal: Temporal, path: Path, metadata: Mapping[str, str]) -> None:
    """Write it as a file of its kind. Raises AdapterError or MotionModuleError."""
    if isinstance(temporal, TemporalAdapter):
        save_adapter(temporal, path, metadata)
    else:
        save_motion_module(temporal, path, metadata)


def load(path: Path, dtype: torch.dtype | None = None) -> Temporal:
    """A temporal adapter or a motion module from its file, told by its contents.

    Raises AdapterError or MotionModuleError, naming the file, if it is neither.
    """
    return (load_motion_module if kind_of(path) == "motion module" else load_adapter)(path, dtype=dtype)


def betas_of(base: Base) -> tuple[float, float]:
    """First and last beta of the base's noise schedule."""
    config = base.scheduler_config
    return config.get("beta_start", 0.00085), config.get("beta_end", 0.012)


def on_schedule_of(base: Base, temporal: Temporal | None) -> Base:
    """The base with the noise levels that a motion module was trained on; an adapter has the base's own."""
    if not isinstance(temporal, MotionModule) or temporal.beta_schedule == betas_of(base):
        return base
    from ..temporal.hosts.diffusers.base import sigmas_of

    start, end = temporal.beta_schedule
    config = {**base.scheduler_config, "beta_start": start, "beta_end": end, "beta_schedule": LINEAR}
    return replace(base, sigmas=sigmas_of(config), scheduler_config=config)
