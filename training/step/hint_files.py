"""The videos of hint pictures beside the training clips: which belongs to which clip, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange

from ...temporal.hosts.diffusers.base import Base
from ...temporal.weights.listing import listed
from ..clips.folder import find_clips, find_videos, fit, scaled
from ..clips.prepared import is_cache
from ..clips.source import DataError
from ..config.train import TrainConfig
from . import controlnet


def require(config: TrainConfig, base: Base, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Raise ConfigError if the ControlNet does not fit the base, and DataError if a clip has no hints that fit it.

    Only the headers of the videos are read, which is quick; their frames are read when a video is drawn.
    """
    if config.controlnet is None:
        return
    controlnet.require_fit(config.controlnet, base.unet.config)
    _require_folders(config)
    clips = find_clips(config.clips)
    files = hint_files(config, [str(path.relative_to(config.clips)) for path in clips])
    resolutions = {config.resolution, *(phase.resolution for phase in config.stages if phase.resolution)}
    for i, (clip, hint) in enumerate(zip(clips, files, strict=True)):
        _require_headers(clip, hint, resolutions, base.multiple)
        progress(i + 1, len(clips))


def _require_folders(config: TrainConfig) -> None:
    """Raise DataError for clips that can have no hints, and for hints that would be taken for clips."""
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


def hint_files(config: TrainConfig, names: list[str]) -> list[Path]:
    """Return the video of hint pictures of each clip. Raises DataError if one is missing, or two have one name."""
    assert config.hints is not None  # as the config says
    videos = [path.relative_to(config.hints) for path in find_videos(config.hints) if path.is_file()]
    by_name = _by_name(videos, config.hints)
    _by_name([Path(name) for name in names], config.clips)
    if missing := [name for name in names if Path(name).with_suffix("") not in by_name]:
        raise DataError(
            f"hints: {config.hints} has no video for {listed(missing)}; give each clip one of the same name"
        )
    return [config.hints / by_name[Path(name).with_suffix("")] for name in names]


def _by_name(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Return the videos of a folder by their names without suffix. Raises DataError if two have the same."""
    by_name: dict[Path, Path] = {}
    for path in paths:
        other = by_name.setdefault(path.with_suffix(""), path)
        if other != path:
            raise DataError(
                f"hints: {other} and {path} in {folder} have one name, so which hints are whose is unclear; rename one"
            )
    return by_name


def _require_headers(clip: Path, hint: Path, resolutions: set[int | None], multiple: int) -> None:
    """Raise DataError if the two videos differ in their number of frames, or in size at one of the resolutions."""
    from ...media.reader import count_frames, probe_clip

    try:
        infos = [probe_clip(path) for path in (clip, hint)]
        frames = [info.frames for info in infos]
        if frames[0] != frames[1]:  # headers count hidden frames too, or say nothing
            frames = [count_frames(path) for path in (clip, hint)]
    except (OSError, ValueError) as error:
        raise DataError(f"hints: {error}") from None
    for resolution in resolutions:
        sizes = [scaled(info.height, info.width, resolution) for info in infos]
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


def read_hints(
    path: Path, frames: list[int], clip: tuple[int, int, int], resolution: int | None, multiple: int
) -> torch.Tensor:
    """Return the hint pictures `[K, 3, H, W]`, 0..1, of some frames, scaled as the clip was.

    clip: its number of frames, height and width in pixels. Raises DataError for a video that does not fit it.
    """
    from ...media.reader import count_frames, probe_clip, read_frames

    try:
        count = probe_clip(path).frames
        if count != clip[0]:  # headers count hidden frames too, or say nothing
            count = count_frames(path)
        shown = read_frames(path, [frame % count for frame in frames])  # a video of fewer frames is refused below
    except (OSError, ValueError) as error:
        raise DataError(f"hints: {error}") from None
    shown = fit(shown, resolution, multiple)
    _require_alike(path, (count, *shown.shape[1:3]), clip)
    return rearrange(torch.from_numpy(shown), "k h w c -> k c h w").float() / 255
