"""Settings to change where memory does not suffice, with the memory that each saves."""

from __future__ import annotations

import math
from typing import Any

from ..clips.source import ClipSource
from ..config.train import TrainConfig
from .memory import BYTES, Memory, estimate

Size = tuple[int, int, int, int]
"""Clips, frames, and height and width of the latents."""


class OutOfMemory(MemoryError):
    """A step did not fit; the message names three settings to change and the memory that each saves."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU or the machine had no memory left: PyTorch raises a RuntimeError for the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def savings(memory: Memory, unet_config: Any, config: TrainConfig, size: Size, half: bool, gpu: bool) -> list[str]:
    """Return settings that lower the estimate, each with the memory that it saves; the best first."""
    clips, frames, height, width = size
    now = memory.total(*size)
    found: list[tuple[float, str]] = []
    if not config.gradient_checkpointing:
        changed = config.model_copy(update={"gradient_checkpointing": True})
        other = estimate(unet_config, changed, half, gpu)
        found.append((now - other.total(*size), "gradient_checkpointing: true"))
    if clips > 1:
        fewer = memory.total(clips // 2, frames, height, width)
        found.append((now - fewer, f"clips_per_step: {clips // 2} (and accumulation: {config.accumulation * 2})"))
    shorter = max(2, frames * 2 // 3)
    found.append((now - memory.total(clips, shorter, height, width), f"frames: [{shorter}]"))
    if config.resolution:
        lower = max(64, config.resolution * 3 // 4 // 64 * 64)
        ratio = lower / config.resolution
        smaller = memory.total(clips, frames, round(height * ratio), round(width * ratio))
        found.append((now - smaller, f"resolution: {lower}"))
    if config.optimizer == "adamw" and gpu:
        found.append((memory.parts["optimizer"] * (1 - BYTES["adamw8bit"][0] / 8), "optimizer: adamw8bit"))
    if config.ema:
        found.append((memory.parts["EMA"], "ema: 0"))
    found.sort(reverse=True)
    return [f"{text} (about {gigabytes(saved)} less)" for saved, text in found if saved > 0]


def explain(config: TrainConfig, unet_config: Any, size: Size, half: bool, gpu: bool, step: int) -> str:
    """Return the message for a step that did not fit."""
    memory = estimate(unet_config, config, half, gpu)
    clips, frames, height, width = size
    return (
        f"out of memory at step {step}; by estimate {clips} x {frames} frames with latents of {width} x {height} need "
        f"{gigabytes(memory.total(*size))}. Change one or more of: "
        + "; ".join(savings(memory, unet_config, config, size, half, gpu)[:3])
        + ". Then go on with --resume latest if there is a checkpoint"
    )


def largest_clip(clips: ClipSource, frames: int) -> tuple[int, int, int]:
    """Return frames, height and width of the largest batch of these clips."""
    return max(
        ((min(frames, length), *size) for length, size in zip(clips.lengths, clips.sizes, strict=True)), key=math.prod
    )
