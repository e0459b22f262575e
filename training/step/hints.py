"""Keyframes with a hint: a frozen ControlNet steers some frames of a step's clips.

The temporal layers learn to bring the other frames along. Without such batches they never meet a frame that is surer
than its neighbours.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange

from ...temporal.clip.keyframes import keyframe_rows
from ...temporal.hosts.diffusers.base import Base
from ...temporal.weights.listing import listed
from ..clips.folder import find_clips, find_videos, fit, scaled
from ..clips.prepared import is_cache
from ..clips.source import ClipSource, DataError
from ..config.train import TrainConfig
from . import controlnet
from .batch import Clip, HintedFrames


class Hints:
    """The hint pictures of the clips of a training phase, and which frames of a step have one."""

    def __init__(self, config: TrainConfig, base: Base, source: ClipSource):
        self.config, self.source, self.factor, self.multiple = config, source, base.factor, base.multiple
        self.files = hint_files(config, source.names)

    def draw(self, clips: list[Clip], kept: torch.Tensor, generator: torch.Generator) -> HintedFrames | None:
        """Return the keyframes of one batch, or None for one without hints.

        kept: frames of the step, counted from the first one of each clip. One half of the batches with hints has them
        at the config's keyframes, the other half at as many or fewer random frames.
        """
        hinted, usual = (torch.rand(2, generator=generator) < torch.tensor([self.config.hinted_share, 0.5])).tolist()
        if not hinted:
            return None
        rows = self.keyframes(len(kept))
        if not usual:
            count = int(torch.randint(len(rows), (1,), generator=generator)) + 1
            rows = torch.randperm(len(kept), generator=generator)[:count].sort().values
        return self.show(clips, kept, rows)

    def keyframes(self, frames: int) -> torch.Tensor:
        """Return the config's keyframes in a clip of this length, rising."""
        return torch.tensor(keyframe_rows(self.config.keyframes, frames)).sort().values

    def show(self, clips: list[Clip], kept: torch.Tensor, rows: torch.Tensor) -> HintedFrames:
        """Return the hints of frames `rows` among the `kept` ones of these clips."""
        return HintedFrames(rows, torch.stack([self.pictures(clip.number, clip.start + kept[rows]) for clip in clips]))

    def pictures(self, i: int, frames: torch.Tensor) -> torch.Tensor:
        """Return the hint pictures `[K, 3, H, W]`, 0..1, of frames `[K]` of clip i, scaled as the clip was.

        Raises DataError for a video that has not the frames of the clip.
        """
        from ...media.reader import count_frames, probe_clip, read_frames

        path, (height, width) = self.files[i], self.source.sizes[i]
        try:
            count = probe_clip(path).frames
            if count != self.source.lengths[i]:  # headers count hidden frames too, or say nothing
                count = count_frames(path)
            # A video of fewer frames is refused below.
            shown = read_frames(path, [frame % count for frame in frames.tolist()])
        except (OSError, ValueError) as error:
            raise DataError(f"hints: {error}") from None
        shown = fit(shown, self.config.resolution, self.multiple)
        clip = (self.source.lengths[i], height * self.factor, width * self.factor)
        _require_alike(path, (count, *shown.shape[1:3]), clip)
        return rearrange(torch.from_numpy(shown), "k h w c -> k c h w").float() / 255


def describe_hints(config: TrainConfig) -> dict[str, str]:
    """Return `trained_hints` of the weights' metadata; nothing where there were none."""
    if config.controlnet is None:
        return {}
    name = Path(config.controlnet).name
    return {"trained_hints": f"{name} in {config.hinted_share:.0%} of batches, keyframes {config.keyframes} or random"}


def require_hints(
    config: TrainConfig, base: Base, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
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
