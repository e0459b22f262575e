"""What `sdxl-anime-video prepare` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ...commands.config import Config, Device, Folder, Share, VaePrecision

Level = Annotated[float, Field(ge=0, le=255)]
# What a cache's content does not depend on: it may differ from run to run.
FREE = {"videos", "output", "checkpoint", "manifest", "npz", "batch", "device", "threads", "ray"}


class PrepareConfig(Config):
    """Settings of `sdxl-anime-video prepare`."""

    videos: Annotated[list[Path], Field(min_length=1)]
    """Folders and files: videos, animated pictures, folders of numbered pictures, .npz clips."""
    output: Folder
    """The cache, a folder. The same command goes on with what is there."""
    checkpoint: str
    """`toon`, or the SDXL checkpoint that the adapter will be trained for."""
    manifest: Path | None = None
    """CSV or Parquet file with captions, and scenes if it has them, of the videos."""
    npz: Path | None = None
    """Folder to write every clip to as an .npz file, besides the cache."""

    fps: PositiveFloat = 12.0
    """Frames a second of the clips; frames are chosen by their time stamps."""
    frames: PositiveInt = 24
    """Longest clip in frames."""
    min_frames: Annotated[int, Field(ge=2)] = 8
    """Shortest clip in frames; what is left of a scene and shorter is dropped."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Frames that neighbouring clips of a scene have in common."""
    resolution: Annotated[int, Field(ge=16)] = 768
    """Clips have about this size squared of pixels, in the shape nearest their own: 512, 768 or 1024 for SDXL."""
    max_enlargement: PositiveFloat = 2.0
    """Videos that would have to be enlarged more than so many times are dropped."""

    cuts: Literal["adaptive", "none"] = "adaptive"
    """How scenes are found where the manifest has none; `none` takes each video for one scene."""
    cut_threshold: PositiveFloat = 3.0
    """A cut changes the picture so many times more than the frames around it do."""
    cut_min_content: PositiveFloat = 30.0
    """A cut changes hue, saturation and brightness by at least so much in the mean, of 255."""
    cut_min_frames: PositiveInt = 18
    """Shortest scene in frames of the video."""

    static_ssim: Share = 0.98
    """A clip whose frames are all more similar (SSIM) to its first is static and dropped; 1 keeps all."""
    black_level: Level = 12.0
    """A frame whose mean brightness is below this, of 255, is black; a clip with more than half of them is dropped."""
    repeat_level: Level = 4.0
    """A clip whose coarse picture is nowhere further than this, of 255, from an earlier clip's is a repeat; 0 keeps all
    but exact ones."""

    precision: VaePrecision = "fp32"
    """Arithmetic of the VAE."""
    batch: PositiveInt = 4
    """Frames that the VAE encodes at once."""
    device: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    threads: PositiveInt | None = None
    """CPU threads; None leaves PyTorch's choice."""
    ray: Annotated[str | None, Field(min_length=1)] = None
    """`local`, or the address of a Ray cluster that sees the same files: decodes on its CPUs, encodes on its GPUs."""

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
        """The settings that a cache's content depends on."""
        return self.model_dump(mode="json", exclude=FREE)
