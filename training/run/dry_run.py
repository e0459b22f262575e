"""`sdxl-anime-video train ... --dry-run`: memory and time of a run, and the sizes that fit."""

import json
import re
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from ...commands.config import ConfigError
from ...commands.overrides import make_config, parse_overrides, read_values
from ...commands.precision import arithmetic
from ...temporal.hosts.diffusers.single_file import CONFIGS
from ..config.train import SHAPES_ONLY, TrainConfig
from ..step.controlnet import require_fit
from ..step.layers import class_of
from .memory import Live, Memory, Size, estimate, gigabytes, largest_clip, savings
from .processes import Processes
from .progress import Bars, clock
from .run import set_up
from .trainer import Trainer

SDXL = CONFIGS / "unet" / "config.json"
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
STEPS = 3  # timed, after one untimed step


def main(path: Path, words: list[str]) -> None:
    """Print parameters, memory, speed, time left and the sizes that fit. Raises ConfigError as training would.

    words: overrides of the config, and `--memory 20GB`.
    """
    limit = take_memory(words)
    overrides = parse_overrides(words, TrainConfig)
    values = {**read_values(path), **overrides}
    if values.get("base") == SHAPES_ONLY:
        values = {"clips": "clips", "output": "output", **values}  # a dry run of shapes reads neither
    config = make_config(TrainConfig, values, str(path))
    sys.stdout.write("\n".join(_lines(config, limit)) + "\n")


def take_memory(words: list[str]) -> float | None:
    """Take `--memory 20GB` out of the words; returns bytes, or None. Raises ConfigError for a value that is no size."""
    place = next((i for i, word in enumerate(words) if word.split("=")[0] == "--memory"), None)
    if place is None:
        return None
    _, equals, text = words.pop(place).partition("=")
    if not equals:
        text = words.pop(place) if place < len(words) else ""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(G|GB|GiB|M|MB|MiB)\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"command line: --memory {text!r} is no size; write it like 20GB")
    unit = match[2].lower()
    return float(match[1]) * (1024 if "i" in unit else 1000) ** (3 if unit[0] == "g" else 2)


def _lines(config: TrainConfig, limit: float | None) -> list[str]:
    trainer = None if config.base == SHAPES_ONLY else _trainer(config)
    if trainer is None:
        side = (config.resolution or 1024) // 8
        unet_config, gpu = json.loads(SDXL.read_text(encoding="utf-8")), True
        dtype = torch.bfloat16 if config.precision == "auto" else arithmetic("cpu", config.precision)
        size: Size = (config.clips_per_step, max(config.frames), side, side)
        if config.controlnet:
            require_fit(config.controlnet, unet_config)
        factor = 8
    else:
        unet_config, factor = trainer.base.unet.config, trainer.base.factor
        dtype, gpu = arithmetic(trainer.device, config.precision), trainer.device.type == "cuda"
        size = (config.clips_per_step, *largest_clip(trainer.data.clips, max(config.frames)))
        if gpu and limit is None:
            limit = float(torch.cuda.get_device_properties(trainer.device).total_memory)
    half = dtype != torch.float32
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("count bytes")
        memory = estimate(unet_config, config, half, gpu, lambda n, total: bar.update(task, completed=n, total=total))
    parts = ", ".join(f"{name} {gigabytes(value)}" for name, value in memory.parts.items() if value)
    lines = [
        f"base: {memory.base_parameters / 1e6:,.1f} M parameters, frozen, {NAMES[dtype]}",
        f"{class_of(config).kind}: {memory.adapter_parameters / 1e6:,.1f} M parameters, trained, fp32",
        f"memory, estimated: {gigabytes(memory.total(*size))} for {size[0]} x {size[1]} frames of "
        f"{size[3] * factor} x {size[2] * factor}: {parts}, step {gigabytes(memory.step(*size))}",
    ]
    lines += ["speed: not measured, because there are no weights"] if trainer is None else _speed(trainer)
    lines += _fitting(memory, config, size, factor, limit)
    if limit is not None and memory.total(*size) > limit:
        lines.append("to fit, change: " + "; ".join(savings(memory, size)[:3]))
    return lines


def _trainer(config: TrainConfig) -> Trainer:
    with Bars(config) as bars:
        return set_up(config.model_copy(update={"resume": None}), Processes(config.device), bars)


def _speed(trainer: Trainer) -> list[str]:
    """Return the speed of a few real steps, whose result is thrown away."""
    config = trainer.config
    trainer.train_step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    for _ in range(STEPS):
        trainer.train_step()
    seconds = (time.monotonic() - began) / STEPS
    if trainer.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        measured = f"memory, measured: {gigabytes(peak)} of tensors at the peak of these steps"
    else:
        with Live((*trainer.layers.parameters(), *trainer.base.unet.parameters())) as live:
            trainer.train_step()
        measured = f"memory, measured: {gigabytes(live.peak)} at the peak of one step, beside weights and moments"
    total = config.steps * seconds
    if trainer.data.held_out:
        began = time.monotonic()
        trainer.validate()
        total += (time.monotonic() - began) * (config.steps // config.validation_steps)
    limited = f", of which minutes: {config.minutes:g} allows " + clock(60 * config.minutes) if config.minutes else ""
    return [
        measured,
        f"speed: {1 / seconds:.3g} steps a second over {STEPS} steps; {config.steps} steps take {clock(total)}{limited}"
        + (" and the rendering of clips" if config.sample_steps else ""),
    ]


def _fitting(memory: Memory, config: TrainConfig, size: Size, factor: int, limit: float | None) -> list[str]:
    """Return a table of the most clips in one pass by resolution and number of frames, and the largest that fits."""
    if limit is None:
        return ["give --memory, such as --memory 20GB, to see which sizes fit"]
    lengths = sorted({length for length in (8, 12, 16, 24) if length <= config.max_frames} | set(config.frames))
    sides = sorted({512, 640, 768, 896, 1024, min(size[2:]) * factor}) if factor == 8 else [min(size[2:]) * factor]
    lines, best = [f"clips_per_step that fit {gigabytes(limit)}, by resolution (square) and frames:"], None
    lines.append("resolution " + "".join(f"{frames:>5}" for frames in lengths))
    for side in sides:
        edge = side // factor
        counts = [sum(memory.total(n, frames, edge, edge) <= limit for n in range(1, 65)) for frames in lengths]
        lines.append(f"{side:>10} " + "".join(f"{count or '-':>5}" for count in counts))
        for frames, count in zip(lengths, counts, strict=True):
            if count:
                best = max(best or (0, 0, 0), (side, frames, count))
    if best is None:
        return [*lines, f"nothing fits {gigabytes(limit)}"]
    return [*lines, f"largest that fits: resolution {best[0]}, {best[1]} frames, clips_per_step {best[2]}"]
