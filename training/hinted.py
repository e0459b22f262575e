"""Keyframes with a hint: a frozen ControlNet steers some frames of a step's clips, and the temporal layers learn to
bring the others along. Without it they have never met a frame that is surer than its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..temporal.control_keyframes import keyframe_rows
from .config import ConfigError, TrainConfig
from .data import VIDEO_SUFFIXES, ClipSource, DataError, find_clips, fit
from .precision import base_dtype

if TYPE_CHECKING:
    from .base import Base

_SHAPE = ("block_out_channels", "layers_per_block", "cross_attention_dim")


def controlnet_config(name: str) -> dict[str, Any]:
    """diffusers' config of a ControlNet: `toon`, or a folder. Raises ConfigError if it is neither."""
    if name == "toon":
        from ..demo.train_controlnet import CONFIG

        return CONFIG
    if not (Path(name) / "config.json").is_file():
        raise ConfigError(f"controlnet: {name} is no diffusers folder, it has no config.json; give one, or toon")
    from diffusers import ControlNetModel

    config: Any = ControlNetModel.load_config(name, local_files_only=True)
    return dict(config)


def load_controlnet(name: str, dtype: torch.dtype | None = None) -> Any:
    """The ControlNetModel, frozen. Raises ConfigError if it cannot be read."""
    if name == "toon":
        from ..demo.train_controlnet import load_toon_controlnet

        network = load_toon_controlnet()
    else:
        from diffusers import ControlNetModel

        try:
            network = ControlNetModel.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"controlnet: {name} cannot be read: {error}") from None
    network.requires_grad_(False).eval()
    return torch.nn.Module.to(network, dtype or torch.float32)  # past diffusers' own, which warns of nothing


def require(config: TrainConfig, base: Base) -> None:
    """Raise ConfigError if the ControlNet was not made for such a base, and DataError if a clip has no hints."""
    if config.controlnet is not None:
        require_fit(config.controlnet, base.unet.config)
        hint_files(config, [str(path.relative_to(config.clips)) for path in find_clips(config.clips)])


def require_fit(controlnet: str, unet_config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the ControlNet was not made for a UNet of this config."""
    has, wants = controlnet_config(controlnet), unet_config
    shapes = [(name, _plain(has.get(name)), _plain(wants[name])) for name in _SHAPE]
    if others := [f"{name} {one}, not {other}" for name, one, other in shapes if one != other]:
        raise ConfigError(
            f"controlnet: {controlnet} is for another kind of base ({'; '.join(others)}); take one for this base"
        )


def hint_files(config: TrainConfig, names: list[str]) -> list[Path]:
    """The video of hint pictures of each clip. Raises DataError if one is missing."""
    from .prepared import is_cache

    assert config.hints is not None  # as the config says
    if is_cache(config.clips):
        raise DataError(f"hints: {config.clips} is what prepare made; hints go with a folder of clips")
    there = {
        path.relative_to(config.hints).with_suffix(""): path
        for path in sorted(config.hints.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
    }
    if missing := [name for name in names if Path(name).with_suffix("") not in there]:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(f"hints: {config.hints} has no video for {some}; give each clip one of the same name")
    return [there[Path(name).with_suffix("")] for name in names]


@dataclass(frozen=True)
class Steered:
    """What a ControlNet is shown of `[B, F]` frames: frames `rows` `[K]` of each clip, pictures `[B, K, 3, H, W]`."""

    rows: torch.Tensor
    pictures: torch.Tensor


class Hints:
    """The ControlNet of a run and the hint pictures of its clips."""

    def __init__(self, config: TrainConfig, base: Base, clips: ClipSource, device: torch.device):
        assert config.controlnet is not None
        self.config, self.device = config, device
        self.network = load_controlnet(config.controlnet, base_dtype(device, config.precision)).to(device)
        self.files = hint_files(config, clips.names)
        self.lengths, self.sizes, self.factor = clips.lengths, clips.sizes, base.factor
        self.multiple = base.multiple

    def draw(
        self, chosen: list[int], starts: list[int], kept: torch.Tensor, generator: torch.Generator
    ) -> Steered | None:
        """Keyframes for one batch, or None for one without hints.

        chosen: clips; starts: their first frames; kept: frames of the step, counted from there. One half of the batches
        with hints has them at the config's keyframes, the other at as many or fewer random frames.
        """
        hinted, usual = (torch.rand(2, generator=generator) < torch.tensor([self.config.hinted_share, 0.5])).tolist()
        if not hinted:
            return None
        rows = self.keyframes(len(kept))
        if not usual:
            count = int(torch.randint(len(rows), (1,), generator=generator)) + 1
            rows = torch.randperm(len(kept), generator=generator)[:count].sort().values
        return self.show(chosen, starts, kept, rows)

    def keyframes(self, frames: int) -> torch.Tensor:
        """The config's keyframes in a clip of this length, rising."""
        return torch.tensor(keyframe_rows(self.config.keyframes, frames, "keyframes")).sort().values

    def show(self, chosen: list[int], starts: list[int], kept: torch.Tensor, rows: torch.Tensor) -> Steered:
        """Hints of frames `rows` among the `kept` ones of clips that begin at `starts`."""
        shown = [self.pictures(i, start + kept[rows]) for i, start in zip(chosen, starts, strict=True)]
        return Steered(rows, torch.stack(shown))

    def pictures(self, i: int, frames: torch.Tensor) -> torch.Tensor:
        """Hint pictures `[K, 3, H, W]`, 0..1, of the frames of clip i. Raises DataError for a video of other frames."""
        from ..media.reader import read_clip

        path = self.files[i]
        try:
            found = read_clip(path)[0]
        except ValueError as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        if len(found) != self.lengths[i]:
            raise DataError(f"hints: {path} has {len(found)} frames, its clip {self.lengths[i]}; make it again")
        found = fit(found, self.config.resolution, self.multiple)
        height, width = (side * self.factor for side in self.sizes[i])
        if found.shape[1:3] != (height, width):
            raise DataError(
                f"hints: {path} is {found.shape[2]} x {found.shape[1]} at the run's resolution, its clip {width} x "
                f"{height}; make it in the clip's size"
            )
        return torch.from_numpy(found[frames.numpy()]).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def residuals(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        added: dict[str, torch.Tensor],
        frames: int,
        steered: Steered,
    ) -> dict[str, Any]:
        """What the UNet takes beside its `[(b f) ...]` inputs: the ControlNet's output, zero for the other frames."""
        rows = torch.arange(0, len(noisy), frames)[:, None] + steered.rows  # [b, k]
        rows = rows.flatten().to(self.device)
        down, middle = self.network(
            noisy[rows],
            timestep[rows],
            tokens[rows],
            controlnet_cond=steered.pictures.flatten(0, 1).to(self.device, self.network.dtype),
            added_cond_kwargs={name: value[rows] for name, value in added.items()},
            return_dict=False,
        )

        def among_all(some: torch.Tensor) -> torch.Tensor:
            return some.new_zeros(len(noisy), *some.shape[1:]).index_copy_(0, rows, some)

        return {
            "down_block_additional_residuals": tuple(map(among_all, down)),
            "mid_block_additional_residual": among_all(middle),
        }


def describe_hints(config: TrainConfig) -> dict[str, str]:
    """`trained_hints` of the weights' metadata; nothing where there were none."""
    if config.controlnet is None:
        return {}
    name = Path(config.controlnet).name
    return {"trained_hints": f"{name} in {config.hinted_share:.0%} of batches, keyframes {config.keyframes} or random"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
