"""The config of `sdxl-anime-video prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ...commands.config import Config, Device, Folder, Share, VaePrecision

Level = Annotated[float, Field(ge=0, le=255)]
# Fields that the content of a cache does not depend on; they may differ from run to run.
FREE = {"videos", "output", "checkpoint", "manifest", "npz", "batch", "device", "threads", "ray"}


class PrepareConfig(Config):
    """Settings of `sdxl-anime-video prepare`."""

    videos: Annotated[list[Path], Field(min_length=1)]
    """Folders and files: videos, animated pictures, folders of numbered pictures, .npz clips."""
    output: Folder
    """Folder of the cache. The same command continues an unfinished one."""
    checkpoint: str
    """`toon`, or the SDXL checkpoint that the adapter will be trained for."""
    manifest: Path | None = None
    """CSV or Parquet file with captions of the videos, and optionally scenes."""
    npz: Path | None = None
    """Folder in which every clip is also written as an .npz file."""

    fps: PositiveFloat = 12.0
    """Frames a second of the clips; frames are chosen by their time stamps."""
    frames: PositiveInt = 24
    """Longest clip in frames."""
    min_frames: Annotated[int, Field(ge=2)] = 8
    """Shortest clip in frames; a shorter rest of a scene is dropped."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Frames that neighbouring clips of a scene share."""
    resolution: Annotated[int, Field(ge=16)] = 768
    """Clips have about this many pixels squared, in the nearest shape: 512, 768 or 1024 for SDXL."""
    max_enlargement: PositiveFloat = 2.0
    """Videos that would need a larger enlargement than this are dropped."""

    cuts: Literal["adaptive", "none"] = "adaptive"
    """Detection of scenes where the manifest has none; `none`: each video is one scene."""
    cut_threshold: PositiveFloat = 3.0
    """A cut changes the picture at least this many times as much as the frames around it."""
    cut_min_content: PositiveFloat = 30.0
    """A cut changes hue, saturation and brightness by at least this much on average, of 255."""
    cut_min_frames: PositiveInt = 18
    """Shortest scene in frames of the video."""

    static_ssim: Share = 0.98
    """A clip whose frames are all at least this similar (SSIM) to its first is dropped as static; 1 keeps all."""
    black_level: Level = 12.0
    """A frame of lower mean brightness, of 255, is black; a clip with more than half of such frames is dropped."""
    repeat_level: Level = 4.0
    """A clip whose coarse picture differs nowhere by more than this, of 255, from an earlier clip's is dropped as a
    repeat; 0 drops only exact ones."""

    precision: VaePrecision = "fp32"
    """Arithmetic of the VAE."""
    batch: PositiveInt = 4
    """Frames encoded by the VAE at once."""
    device: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    threads: PositiveInt | None = None
    """CPU threads; None: PyTorch chooses."""
    ray: Annotated[str | None, Field(min_length=1)] = None
    """`local` or the address of a Ray cluster that sees the same files: decoding on its CPUs, encoding on its GPUs."""

    @model_validator(mode="after")
    def _consistent(self) -> PrepareConfig:
        if self.min_frames > self.frames:
            raise ValueError(f"min_frames: {self.min_frames} is more than frames {self.frames}; lower it")
        if self.overlap > self.frames - self.min_frames:
            raise ValueError(
                f"overlap: {self.overlap} leaves fewer than min_frames {self.min_frames} new frames of {self.frames}; "
                "lower it"
            )
        return self

    def fixed(self) -> dict[str, Any]:
        """Return the settings that the content of a cache depends on."""
        return self.model_dump(mode="json", exclude=FREE)
