"""Keyframes with a hint: a frozen ControlNet steers some frames of a step's clips, and the temporal layers learn to
bring the others along. Without it they have never met a frame that is surer than its neighbours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...commands.config import ConfigError
from ...temporal.clip.keyframes import keyframe_rows
from ...temporal.weights.listing import listed
from ..clips.folder import find_clips, find_videos, fit, scaled
from ..clips.source import ClipSource, DataError
from ..config.train import TrainConfig

if TYPE_CHECKING:
    from ...temporal.hosts.diffusers.base import Base

_SHAPE = ("block_out_channels", "layers_per_block", "cross_attention_dim")
_POOLED = ("addition_embed_type", "projection_class_embeddings_input_dim")


def controlnet_config(name: str) -> dict[str, Any]:
    """diffusers' config of a ControlNet: `toon`, or a folder. Raises ConfigError if it is neither."""
    if name == "toon":
        from ...demo.controlnet import CONFIG

        return CONFIG
    if not (Path(name) / "config.json").is_file():
        raise ConfigError(f"controlnet: {name} is no diffusers folder, it has no config.json; give one, or toon")
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        made = config.get("_class_name", "ControlNetModel")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"controlnet: {name}/config.json is damaged ({error}); copy or download it again") from None
    if made != "ControlNetModel":
        raise ConfigError(f"controlnet: {name} holds a {made}, no ControlNetModel; take a ControlNet of that kind")
    return config


def load_controlnet(name: str, dtype: torch.dtype | None = None) -> Any:
    """The ControlNetModel, frozen. Raises ConfigError if it cannot be read."""
    if name == "toon":
        from ...demo.controlnet import load_toon_controlnet

        network = load_toon_controlnet()
    else:
        from diffusers import ControlNetModel

        read: Any = ControlNetModel.from_pretrained
        try:
            network, found = read(
                name, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"controlnet: {name} cannot be read: {error}; give a folder with config.json and "
                "diffusion_pytorch_model.safetensors"
            ) from None
        if missing := found["missing_keys"]:
            raise ConfigError(
                f"controlnet: {name} lacks {len(missing)} of its weights, such as {missing[0]}; download it again"
            )
        if not all(bool(value.isfinite().all()) for value in network.parameters()):
            raise ConfigError(f"controlnet: {name} holds values that are no numbers; download it again")
    network.requires_grad_(False).eval()
    return torch.nn.Module.to(network, dtype or torch.float32)  # past diffusers' own, which warns of nothing


def require(config: TrainConfig, base: Base, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Raise ConfigError if the ControlNet was not made for such a base, and DataError if a clip has no such hints.

    Sizes and numbers of frames are those in the headers of the videos, which is quick; when a video is drawn its frames
    are looked at.
    """
    if config.controlnet is None:
        return
    require_fit(config.controlnet, base.unet.config)
    _require_folders(config)
    clips = find_clips(config.clips)
    files = hint_files(config, [str(path.relative_to(config.clips)) for path in clips])
    resolutions = {config.resolution, *(stage.resolution for stage in config.stages if stage.resolution)}
    for i, (clip, hint) in enumerate(zip(clips, files, strict=True)):
        _require_headers(clip, hint, resolutions, base.multiple)
        progress(i + 1, len(clips))


def _require_folders(config: TrainConfig) -> None:
    """Raise DataError for clips that can have no hints, and for hints that would be taken for clips."""
    from ..clips.prepared import is_cache

    assert config.hints is not None  # as the config says
    if is_cache(config.clips):
        raise DataError(
            f"hints: {config.clips} is what prepare made, which keeps no names of clips; give as clips a folder of "
            "short videos with captions"
        )
    if not config.hints.is_dir():
        raise DataError(f"hints: {config.hints} is no folder; name one with a video of hints for each clip")
    if config.hints.resolve().is_relative_to(config.clips.resolve()):
        raise DataError(
            f"hints: {config.hints} lies in the folder of clips {config.clips}, so its videos would be clips, too; "
            "give hints a folder beside it"
        )


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


def hint_files(config: TrainConfig, names: list[str]) -> list[Path]:
    """The video of hint pictures of each clip. Raises DataError if one is missing, or two have the same name."""
    assert config.hints is not None  # as the config says
    videos = [path.relative_to(config.hints) for path in find_videos(config.hints) if path.is_file()]
    there = _by_name(videos, config.hints)
    _by_name([Path(name) for name in names], config.clips)
    if missing := [name for name in names if Path(name).with_suffix("") not in there]:
        raise DataError(
            f"hints: {config.hints} has no video for {listed(missing)}; give each clip one of the same name"
        )
    return [config.hints / there[Path(name).with_suffix("")] for name in names]


def _by_name(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Videos of a folder by their names without suffix. Raises DataError if two have the same."""
    there: dict[Path, Path] = {}
    for path in paths:
        other = there.setdefault(path.with_suffix(""), path)
        if other != path:
            raise DataError(
                f"hints: {other} and {path} in {folder} have one name, so which hints are whose is unclear; rename one"
            )
    return there


def _require_headers(clip: Path, hint: Path, resolutions: set[int | None], multiple: int) -> None:
    """Raise DataError if the headers of the two videos tell of other frames."""
    from ...media.reader import iter_clip, probe_clip

    try:
        told = [probe_clip(path) for path in (clip, hint)]
        frames = [info.frames for info in told]
        if frames[0] != frames[1]:  # a header counts frames that are not shown, too, or none
            frames = [sum(1 for _ in iter_clip(path)) for path in (clip, hint)]
    except (OSError, ValueError) as error:
        raise DataError(f"hints: {error}") from None
    for resolution in resolutions:
        sizes = [scaled(info.height, info.width, resolution) for info in told]
        of_clip, of_hint = [tuple(side // multiple * multiple for side in size) for size in sizes]
        _require_alike(hint, (frames[1], *of_hint), (frames[0], *of_clip))


def _require_alike(path: Path, hint: tuple[int, ...], clip: tuple[int, ...]) -> None:
    """Raise DataError unless a video of hints has the frames, height and width of its clip."""
    if hint[0] != clip[0]:
        raise DataError(f"hints: {path} has {hint[0]} frames, its clip {clip[0]}; make it again")
    if hint[1:] != clip[1:]:
        raise DataError(
            f"hints: {path} is {hint[2]} x {hint[1]} at the run's resolution, its clip {clip[2]} x {clip[1]}; make it "
            "in the clip's size"
        )


@dataclass(frozen=True)
class Steered:
    """What a ControlNet is shown of `[B, F]` frames: frames `rows` `[K]` of each clip, pictures `[B, K, 3, H, W]`."""

    rows: torch.Tensor
    pictures: torch.Tensor


class Hints:
    """The ControlNet of a run, on its device, and the hint pictures of its clips."""

    def __init__(self, config: TrainConfig, network: Any, base: Base, clips: ClipSource):
        self.config, self.network = config, network
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
        return torch.tensor(keyframe_rows(self.config.keyframes, frames)).sort().values

    def show(self, chosen: list[int], starts: list[int], kept: torch.Tensor, rows: torch.Tensor) -> Steered:
        """Hints of frames `rows` among the `kept` ones of clips that begin at `starts`."""
        shown = [self.pictures(i, start + kept[rows]) for i, start in zip(chosen, starts, strict=True)]
        return Steered(rows, torch.stack(shown))

    def pictures(self, i: int, frames: torch.Tensor) -> torch.Tensor:
        """Hint pictures `[K, 3, H, W]`, 0..1, of the frames of clip i. Raises DataError for a video of other frames."""
        from ...media.reader import read_clip

        try:
            every = read_clip(self.files[i])[0]
        except (OSError, ValueError) as error:
            raise DataError(f"hints: {error}") from None
        size = tuple(side * self.factor for side in self.sizes[i])
        shown = every[frames.numpy() % len(every)]  # a video of fewer frames is refused below
        shown = fit(shown, self.config.resolution, self.multiple)
        _require_alike(self.files[i], (len(every), *shown.shape[1:3]), (self.lengths[i], *size))
        return torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255

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
        rows = rows.flatten().to(noisy.device)
        down, middle = self.network(
            noisy[rows],
            timestep[rows],
            tokens[rows],
            controlnet_cond=steered.pictures.flatten(0, 1).to(noisy.device, self.network.dtype),
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
