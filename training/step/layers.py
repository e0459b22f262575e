"""The temporal layers that a run trains: an adapter or a motion module, new or from a file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...commands.config import ConfigError
from ...temporal.hosts.diffusers.base import LINEAR, Base
from ...temporal.hosts.diffusers.unet import unet_sites
from ...temporal.layers.adapter import TemporalAdapter
from ...temporal.layers.base import TemporalLayers
from ...temporal.layers.motion_module import FORMATS, MotionConfig, MotionModule, Site
from ...temporal.weights.formats import load_layers
from ...temporal.weights.listing import listed
from ..config.train import TrainConfig

Betas = tuple[float, float] | None


def _new_adapter(config: TrainConfig, unet: Any, _: Betas) -> TemporalAdapter:
    return TemporalAdapter.create(
        unet_sites(unet, TemporalAdapter), config.max_frames, config.norm, config.pos_value, init=config.init
    )


def _new_motion_module(config: TrainConfig, unet: Any, betas: Betas) -> MotionModule:
    module = MotionModule(
        MotionConfig(
            _chosen(config.motion_places, unet_sites(unet, MotionModule)),
            config.kind,
            config.max_frames,
            attentions=config.motion_attentions,
            betas=betas if betas != FORMATS[config.kind].betas else None,
        )
    )
    module.reset_parameters()
    return module


KINDS: dict[str, tuple[type[TemporalLayers], Callable[[TrainConfig, Any, Betas], TemporalLayers]]] = {
    "adapter": (TemporalAdapter, _new_adapter),
    "animatediff": (MotionModule, _new_motion_module),
    "hotshot": (MotionModule, _new_motion_module),
}
"""The config's `kind` -> its class, and a function that makes new, silent layers."""
FIELDS = {"format": "kind", "attentions": "motion_attentions"}
"""Fields of the config, by the property of the layers that they set, where the names differ."""


def create(config: TrainConfig, unet: Any, betas: Betas = None) -> TemporalLayers:
    """Return new, silent layers of the config's kind for this UNet. betas: the base's, which a motion module records.

    Raises ConfigError for sites that the UNet does not have, and ValueError for widths that the kind cannot have.
    """
    return KINDS[config.kind][1](config, unet, betas)


def class_of(config: TrainConfig) -> type[TemporalLayers]:
    """Return the class of the layers that the run trains."""
    return KINDS[config.kind][0]


def require(config: TrainConfig, base: Base, resumed: bool = False) -> None:
    """Raise ConfigError if the config's kind, sites and `start` do not go with the base.

    resumed: whether the run goes on from a checkpoint, which needs no `start` any more.
    """
    with torch.device("meta"):
        new = create(config, base.unet)
    if new.beta_schedule and (schedule := base.scheduler_config.get("beta_schedule", LINEAR)) != LINEAR:
        raise ConfigError(f"base: its noise schedule is {schedule}; the file of a {new.kind} can only hold {LINEAR}")
    if config.start and not resumed:
        started(config.start, new)


def started(path: Path, new: TemporalLayers) -> TemporalLayers:
    """Return the layers of a file, which must be of the same make as the new ones.

    Raises ConfigError that names the differences.
    """
    try:
        found = load_layers(path)
    except ValueError as error:
        raise ConfigError(f"start: {path}: {error}") from None
    if type(found) is not type(new):
        kind = getattr(found.config, "format", next(name for name, (cls, _) in KINDS.items() if cls is type(found)))
        raise ConfigError(f"start: {path} holds {found.kind} weights; set kind to {kind}, or take another file")
    fields = {**FIELDS, "sites": "base" if new.every_site else "motion_places"}
    has, wants = vars(found.config), vars(new.config)
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
    """Return a property of the layers in words; of sites, those that the other does not have alike."""
    if not isinstance(value, Mapping):
        return str(value)
    own = [f"{site} {size}" for site, size in value.items() if other.get(site) != size]
    return listed(own) or "nothing else"


def _chosen(names: list[str] | None, sites: Mapping[Site, int]) -> dict[Site, int]:
    """Return the sites of these names, or all on the way down and up, in the UNet's order."""
    known = {f"{site.direction}.{site.block}.{site.layer}": site for site in sites}
    if unknown := [name for name in names or [] if name not in known]:
        raise ConfigError(f"motion_places: {', '.join(unknown)} is not in the base's UNet; it has {', '.join(known)}")
    chosen = names or [name for name, site in known.items() if site.direction != "mid"]
    return {site: sites[site] for name, site in known.items() if name in chosen}
