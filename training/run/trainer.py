"""The trainer: a frozen base, the temporal layers in its UNet, and the steps that train them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from ...commands.precision import arithmetic, base_dtype
from ...temporal.hosts.diffusers.base import Base, prepared
from ...temporal.hosts.diffusers.unet import TemporalUNet
from ...temporal.weights.formats import save_layers
from ..clips.source import ClipSource
from ..config.train import TrainConfig
from ..step import layers
from ..step.batch import Batch, longest_draw
from ..step.controlnet import load_controlnet
from ..step.data import Data
from ..step.hints import describe_hints
from ..step.loss import Loss
from ..step.optimizers import Average, learning_rate_scale, make_optimizer
from .checkpoint import (
    CheckpointError,
    checkpoint_path,
    read_checkpoint,
    read_latest,
    remove_old,
    require_last,
    require_same,
    restore,
    save_checkpoint,
)
from .processes import Processes


class Trainer:
    """Owns the temporal layers, their optimizer and average, and the step; `train_step()` until `finished()`.

    clips: those of the first training phase. Under several processes each has a Trainer, and all call its methods
    together. Raises ConfigError, CheckpointError, or ValueError where too few clips are left to train on.
    """

    def __init__(self, config: TrainConfig, base: Base, clips: ClipSource, processes: Processes | None = None):
        self.config, self.base = config, base
        self.processes = processes or Processes(config.device)
        self.device = self.processes.device
        self.step, self.seconds = 0, 0.0
        self._setup_layers()
        self._setup_optimizer()
        self._setup_loss()
        self.enter(config.at(0), clips)
        self._setup_start()

    def _setup_layers(self) -> None:
        """New temporal layers, on the device."""
        config, base = self.config, self.base
        torch.manual_seed(config.seed)  # the first values of the layers
        self.layers = layers.create(config, base.unet, base.betas).to(self.device)

    def _setup_optimizer(self) -> None:
        config = self.config
        self.optimizer = make_optimizer(self.layers, config, self.device)
        self.average = Average(self.layers, config.ema)
        # fp16 holds small gradients only of a loss that is scaled up; without fp16 the scaler does nothing.
        half = arithmetic(self.device, config.precision) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def _setup_loss(self) -> None:
        """The base's UNet with the layers in it, and what it is trained towards."""
        config, controlnet = self.config, None
        if config.controlnet:
            controlnet = load_controlnet(config.controlnet, base_dtype(self.device, config.precision)).to(self.device)
        self.unet = TemporalUNet(
            prepared(self.base.unet, self.device, config.precision, config.gradient_checkpointing), self.layers
        )
        self.loss = Loss(config, self.base, self.unet, self.device, controlnet)

    def enter(self, phase: TrainConfig, clips: ClipSource) -> None:
        """Go on with the config and the clips of a training phase. Raises ValueError if no clip is left to train on."""
        self.data = Data(phase, clips, self.base)

    def _setup_start(self) -> None:
        """The state of a checkpoint, or the weights that the config starts with."""
        resumed = bool(self.config.resume) and self._resume(str(self.config.resume))
        if self.config.start and not resumed:
            self.layers.load_state_dict(layers.started(self.config.start, self.layers).state_dict())
            self.average.restart({})

    def _resume(self, source: str) -> bool:
        """Go on from a checkpoint; False if there is none yet."""
        checkpoint = read_latest(self.config.output) if source == "latest" else read_checkpoint(Path(source))
        steps = self.processes.gather(checkpoint and checkpoint.progress["step"])
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"resume: the processes found checkpoints of steps {steps}; give all of them one output folder"
            )
        if checkpoint is None:
            return False
        require_same(checkpoint, self.config)
        self.average.restart(restore(checkpoint, self.layers, self.optimizer))
        self.step, self.seconds = checkpoint.progress["step"], checkpoint.progress["seconds"]
        if self.scaler.is_enabled() and "scaler" in checkpoint.progress:
            self.scaler.load_state_dict(checkpoint.progress["scaler"])
        if source != "latest":
            require_last(self.config.output, self.step)
        return True

    def progress(self) -> float:
        """Return the fraction of the run that is done, by steps or by minutes, whichever is further along."""
        config = self.config
        by_time = self.seconds / (60 * config.minutes) if config.minutes else 0.0
        return min(1.0, max(self.step / config.steps, by_time))

    def finished(self) -> bool:
        return self.progress() >= 1

    def train_step(self) -> float:
        """Take one optimizer step of all processes; returns its mean loss.

        A gradient too large for fp16 is computed again with a smaller scale of the loss, so a step is always taken.
        Raises FloatingPointError, in every process, if loss or gradient is not finite for another reason.
        """
        phase = self.data.config
        scale = learning_rate_scale(self.step, phase.warmup_steps, self.progress())
        scale *= phase.learning_rate / self.config.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        loss = self._gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.scaler.update()
        self.step += 1
        return loss

    def _gradients(self) -> float:
        """Leave the gradients of the step, bounded, in the layers; returns the mean loss."""
        while True:
            loss, drawn = self._backward()
            norm = torch.nn.utils.clip_grad_norm_(self.layers.parameters(), self.config.clip_norm)
            if math.isfinite(loss) and math.isfinite(norm):
                return loss
            self.optimizer.zero_grad(set_to_none=True)
            if not (math.isfinite(loss) and self._lower_scale()):
                names = ", ".join(self.data.clips.names[i] for part in self.processes.gather(drawn) for i in part)
                raise FloatingPointError(
                    f"loss is {loss} and the gradient's norm {float(norm)} at step {self.step}, clips {names}; the "
                    "last checkpoint is kept: go on with --resume latest and a lower --learning-rate"
                )

    def _backward(self) -> tuple[float, list[int]]:
        """Return mean loss over the processes, and the clips that this process drew.

        Part i of the batch belongs to process i modulo their number, so that N processes draw the same clips as one
        process with N times the accumulation.
        """
        processes, noise = self.processes, self.config.noise_at(self.progress())
        parts = self.data.config.accumulation * processes.count
        total, drawn = 0.0, []
        for part in range(processes.rank, parts, processes.count):
            batch = self.data.draw(self.step, part, noise)
            loss = self.loss(batch).mean() / parts
            self.scaler.scale(loss).backward()
            total += loss.item()
            drawn += batch.numbers
        (total,) = processes.sum(total)
        processes.sum_gradients(self.layers.parameters())
        self.scaler.unscale_(self.optimizer)
        return total, drawn

    def _lower_scale(self) -> bool:
        """Halve the scale of the loss, after a gradient too large for fp16; False where there is none to lower."""
        before = self.scaler.get_scale()
        self.scaler.update()
        return 1 <= self.scaler.get_scale() < before

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss of the held-out clips, with fixed noise and positions, by noise level and in the mean.

        `validation_hinted` is the mean with hints at the config's keyframes, where there are hints.
        """
        data, levels = self.data, self.data.config.validation_levels
        with self.average.in_place():
            by_level = self._losses(data.validation_batches())
            hinted = self._losses(data.validation_batches(hinted=True)) if data.hints else None
        result = {"validation": sum(by_level) / len(levels)}
        result |= {f"validation_{level}": loss for level, loss in zip(levels, by_level, strict=True)}
        if hinted:
            result["validation_hinted"] = sum(hinted) / len(levels)
        return result

    def _losses(self, batches: list[Batch]) -> list[float]:
        """Return the mean loss at each level; the processes share the levels."""
        levels = self.data.config.validation_levels
        means = [0.0] * len(levels)
        for i, level in self.processes.share(levels):
            step = int(level * len(self.loss.sigmas))
            losses = [self.loss(replace(batch, timestep=torch.full_like(batch.timestep, step))) for batch in batches]
            means[i] = torch.cat(losses).mean().item()
        return self.processes.sum(*means)

    def save(self, path: Path, revision: str) -> None:
        """Write the layers (their moving average where there is one) with a record of their training.

        revision: of this program when the run began.
        """
        config, clips, factor = self.data.config, self.data.clips, self.base.factor
        sizes = {f"{width * factor}x{height * factor}" for height, width in clips.sizes}
        trained = {
            "trained_base": Path(config.base).name,
            "trained_dataset": config.dataset or config.clips.name,
            "trained_fps": f"{clips.fps:g}",
            "trained_resolution": ", ".join(sorted(sizes)),
            "trained_revision": revision,
            **({"trained_start": config.start.name} if config.start else {}),
            "trained_clips": str(sum(map(len, self.data.buckets))),
            "trained_frames": str(longest_draw(clips, self.data.buckets, config.clips_per_step, config.frames)),
            "trained_noise": config.describe_noise(),
            "trained_steps": str(self.step),
            **describe_hints(config),
        }
        with self.average.in_place():
            save_layers(self.layers, path, trained)

    def checkpoint(self) -> None:
        """Write all that the run can go on from; checkpoints beyond `keep_checkpoints` are removed."""
        folder = self.config.output
        progress = {"step": self.step, "seconds": self.seconds, "config": json.loads(self.config.model_dump_json())}
        if self.scaler.is_enabled():
            progress["scaler"] = self.scaler.state_dict()
        save_checkpoint(checkpoint_path(folder, self.step), self.layers, self.optimizer, self.average.values, progress)
        remove_old(folder, self.config.keep_checkpoints)
