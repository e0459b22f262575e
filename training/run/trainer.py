"""A frozen base, an adapter or motion module (`adapter` here, whichever it is), and the steps that train it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...commands.precision import arithmetic, autocast, base_dtype
from ...temporal.hosts.diffusers.base import Base, prepared
from ...temporal.hosts.diffusers.unet import TemporalUNet
from ...temporal.weights.formats import save_layers
from ..clips.draw import draw_batch, longest_draw
from ..clips.source import ClipSource
from ..config.schedule import config_at, describe_noise, noise_at
from ..config.train import TrainConfig
from ..step import hints as hinted
from ..step import layers, objective
from ..step.draws import draw_noise, kept_frames, step_generator
from ..step.optimizers import make_optimizer
from .checkpoint import (
    CheckpointError,
    checkpoint_path,
    checkpoints,
    read_checkpoint,
    read_latest,
    restore,
    save_checkpoint,
)
from .processes import Processes
from .validation import hold_out, none_left, validate

# What a run keeps when it goes on.
FIXED = ("kind", "start", "max_frames", "norm", "pos_value", "motion_places", "motion_attentions", "optimizer")


class Trainer:
    """Owns the adapter, its optimizer and its moving average; `train_step()` until `finished()`.

    clips: those of the first stage. Under several processes each has a Trainer, and all call its methods together.
    """

    def __init__(self, config: TrainConfig, base: Base, clips: ClipSource, processes: Processes | None = None):
        self.config, self.base = config, base
        self.processes = processes or Processes(config.device)
        self.device = self.processes.device
        torch.manual_seed(config.seed)  # the adapter's first values
        self.adapter = layers.create(config, base.unet, base.betas)
        self.adapter.to(self.device)
        self.optimizer = make_optimizer(self.adapter, config, self.device)
        self.unet = TemporalUNet(
            prepared(base.unet, self.device, config.precision, config.gradient_checkpointing), self.adapter
        )
        self.ema = (
            {name: value.detach().clone() for name, value in self.adapter.state_dict().items()} if config.ema else {}
        )
        # fp16 holds small gradients only of a loss that is scaled up; without fp16 the scaler does nothing.
        half = arithmetic(self.device, config.precision) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.controlnet = config.controlnet and hinted.load_controlnet(
            config.controlnet, base_dtype(self.device, config.precision)
        ).to(self.device)
        self.sigmas = base.sigmas.double()
        self.step = 0
        self.seconds = 0.0
        self.enter(config_at(config, 0), clips)
        resumed = bool(config.resume) and self._resume(str(config.resume))
        if config.start and not resumed:
            self._begin_with(layers.started(config.start, self.adapter).state_dict())

    def enter(self, stage: TrainConfig, clips: ClipSource) -> None:
        """Go on with the fields and the clips of a stage. Raises ValueError if too few clips are left to train on."""
        self.stage, self.clips = stage, clips
        self.hints = hinted.Hints(stage, self.controlnet, self.base, clips) if stage.controlnet else None
        self.held_out = hold_out(clips.buckets(), stage.validation_clips)
        self.buckets = [left for bucket in clips.buckets() if (left := [i for i in bucket if i not in self.held_out])]
        if not self.buckets:
            raise none_left(stage.validation_clips, len(clips))

    def _begin_with(self, state: dict[str, torch.Tensor]) -> None:
        self.adapter.load_state_dict(state)
        for name, value in self.adapter.state_dict().items() if self.ema else ():
            self.ema[name].copy_(value)

    def _resume(self, source: str) -> bool:
        """Go on from a checkpoint; False if there is none yet."""
        checkpoint = read_latest(self.config.output) if source == "latest" else read_checkpoint(Path(source))
        found = self.processes.gather(checkpoint and checkpoint.progress["step"])
        if len(set(found)) > 1:
            raise CheckpointError(
                f"resume: the processes found checkpoints of steps {found}; give all of them one output folder"
            )
        if checkpoint is None:
            return False
        made, now = {"optimizer": "adamw", **checkpoint.progress["config"]}, json.loads(self.config.model_dump_json())
        if others := [
            f"{name} {made[name]}, not {now[name]}" for name in FIXED if made.get(name, now[name]) != now[name]
        ]:
            raise CheckpointError(
                f"resume: {checkpoint.path} was made with {'; '.join(others)}; give the same, or begin anew"
            )
        ema = restore(checkpoint, self.adapter, self.optimizer)
        if self.ema:  # an average that begins now begins with the weights as they are
            self.ema = {
                name: ema.get(name, value).to(value, copy=True) for name, value in self.adapter.state_dict().items()
            }
        self.step, self.seconds = checkpoint.progress["step"], checkpoint.progress["seconds"]
        if self.scaler.is_enabled() and "scaler" in checkpoint.progress:
            self.scaler.load_state_dict(checkpoint.progress["scaler"])
        here = checkpoint_path(self.config.output, self.step)
        if source != "latest" and (later := [path.name for path in checkpoints(self.config.output) if path > here]):
            raise CheckpointError(
                f"resume: {self.config.output} holds later checkpoints ({', '.join(later)}), which a run from step "
                f"{self.step} would get in the way of; give another --output, or remove them"
            )
        return True

    def progress(self) -> float:
        """Share of the run that is done, by steps or by minutes, whichever is further along."""
        config = self.config
        by_time = self.seconds / (60 * config.minutes) if config.minutes else 0.0
        return min(1.0, max(self.step / config.steps, by_time))

    def finished(self) -> bool:
        return self.progress() >= 1

    def predict(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        caption: torch.Tensor,
        positions: torch.Tensor | None,
        chosen: list[int],
        steered: hinted.Steered | None = None,
    ) -> torch.Tensor:
        """The model's output `[B, F, 4, h, w]` for noisy latents of that shape, timesteps `[B]`, captions `[B]`."""
        clips, frames = noisy.shape[:2]
        tokens, pooled = (part.to(self.device).repeat_interleave(frames, 0) for part in self.clips.text(caption))
        sizes = torch.stack([self.clips.time_ids(i) for i in chosen]).to(self.device)  # [b, 6]
        added = {"text_embeds": pooled, "time_ids": sizes.repeat_interleave(frames, 0)}  # [(b f), ...]
        noisy = noisy.flatten(0, 1).to(self.device, memory_format=torch.channels_last)
        timestep = timestep.repeat_interleave(frames).to(self.device)
        with autocast(self.device, self.config.precision):
            more = self.hints.residuals(noisy, timestep, tokens, added, frames, steered) if steered else {}
            out = self.unet(
                noisy,
                timestep,
                encoder_hidden_states=tokens,
                added_cond_kwargs=added,
                num_frames=frames,
                positions=positions,
                **more,
            )
        return out.sample.float().unflatten(0, (clips, frames))

    def clip_losses(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
        caption: torch.Tensor,
        positions: Any,
        chosen: list[int],
        steered: hinted.Steered | None = None,
    ) -> torch.Tensor:
        """Weighted loss of each of the chosen clips `[B]`."""
        config, prediction = self.config, self.base.prediction
        sigma = self.sigmas[timestep].float()
        noisy = objective.add_noise(latents, noise, sigma)
        target = objective.training_target(latents, noise, sigma, prediction).to(self.device)
        predicted = self.predict(noisy, timestep, caption, positions, chosen, steered)
        error = (predicted - target).square().flatten(1).mean(1)
        weight = objective.loss_weight(sigma, prediction, config.min_snr_gamma, config.snr_floor)
        return error * weight.to(self.device)

    def _batch_losses(self, part: int) -> tuple[torch.Tensor, list[int]]:
        """Losses `[B]` of one part of the step's batch, and the clips it drew."""
        config = self.stage
        generator = step_generator(config.seed, self.step, part)
        wanted = config.clips_per_step, config.frames
        latents, caption, chosen, starts = draw_batch(self.clips, self.buckets, *wanted, generator)
        count, frames = latents.shape[:2]
        dropped = torch.rand(count, generator=generator) < config.caption_dropout
        caption = torch.where(dropped, 0, caption)
        # One number in each of `count` equal parts of [0, 1), in random order: less variance than free draws.
        uniform = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        timestep = objective.timesteps(uniform, len(self.sigmas), config.high_noise_bias)
        offset = 0
        if config.random_positions:
            offset = int(torch.randint(config.max_frames - frames + 1, (1,), generator=generator))
        noise = draw_noise(latents.shape, generator, noise_at(self.config, self.progress()))
        if config.pure_noise_share:
            pure = torch.rand(count, generator=generator) < config.pure_noise_share
            timestep[pure] = len(self.sigmas) - 1
            noise[pure] = objective.hide_latents(noise[pure], latents[pure], self.sigmas[timestep[pure]].float())
        kept = kept_frames(frames, config.temporal_dropout, generator)
        positions = (offset + kept).to(self.device)
        steered = self.hints.draw(chosen, starts, kept, generator) if self.hints else None
        drawn = latents[:, kept], noise[:, kept], timestep, caption, positions, chosen
        return self.clip_losses(*drawn, steered), chosen

    def train_step(self) -> float:
        """One optimizer step of all processes; returns its mean loss.

        A gradient too large for fp16 is computed again with a smaller scale of the loss, so a step is always taken.
        Raises FloatingPointError, in every process, if loss or gradient is not finite for another reason.
        """
        config = self.stage
        scale = objective.learning_rate_scale(self.step, config.warmup_steps, self.progress())
        scale *= config.learning_rate / self.config.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        while True:
            total, drawn = self._gradients()
            norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip_norm)
            if math.isfinite(total) and math.isfinite(norm):
                break
            self.optimizer.zero_grad(set_to_none=True)
            if not (math.isfinite(total) and self._lower_scale()):
                names = ", ".join(self.clips.names[i] for of_one in self.processes.gather(drawn) for i in of_one)
                raise FloatingPointError(
                    f"loss is {total} and the gradient's norm {float(norm)} at step {self.step}, clips {names}; the "
                    "last checkpoint is kept: go on with --resume latest and a lower --learning-rate"
                )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in self.adapter.state_dict().items() if self.ema else ():
            # A young average follows the weights, so that it does not remember the silent start.
            self.ema[name].lerp_(value, 1 - min(config.ema, (1 + self.step) / (10 + self.step)))
        self.scaler.update()
        self.step += 1
        return total

    def _gradients(self) -> tuple[float, list[int]]:
        """Mean loss and gradient over the processes, and the clips that this one drew.

        Part i of the batch belongs to process i modulo their number, so that N processes draw what one would with N
        times the accumulation.
        """
        processes = self.processes
        parts = self.stage.accumulation * processes.count
        total, drawn = 0.0, []
        for part in range(processes.rank, parts, processes.count):
            losses, chosen = self._batch_losses(part)
            loss = losses.mean() / parts
            self.scaler.scale(loss).backward()
            total += loss.item()
            drawn += chosen
        (total,) = processes.sum(total)
        processes.sum_gradients(self.adapter.parameters())
        self.scaler.unscale_(self.optimizer)
        return total, drawn

    def _lower_scale(self) -> bool:
        """Halve the scale of the loss, after a gradient too large for fp16; False where there is none to lower."""
        before = self.scaler.get_scale()
        self.scaler.update()
        return 1 <= self.scaler.get_scale() < before

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the adapter has the weights that a save would write: the moving average where there is one."""
        if not self.ema:
            yield
            return
        kept = {name: value.detach().clone() for name, value in self.adapter.state_dict().items()}
        self.adapter.load_state_dict(self.ema)
        try:
            yield
        finally:
            self.adapter.load_state_dict(kept)

    def validate(self) -> dict[str, float]:
        """Loss of the held-out clips at fixed noise levels, noise and positions; by level and in the mean."""
        return validate(self)

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the adapter (its moving average where there is one) with what it was trained on."""
        config = self.stage
        trained = {
            **metadata,
            "trained_clips": str(sum(map(len, self.buckets))),
            "trained_frames": str(longest_draw(self.clips, self.buckets, config.clips_per_step, config.frames)),
            "trained_noise": describe_noise(config),
            "trained_steps": str(self.step),
            **hinted.describe_hints(config),
        }
        with self.averaged():
            save_layers(self.adapter, path, trained)

    def checkpoint(self) -> None:
        """Write what the run can go on from; older ones beyond `keep_checkpoints` are removed."""
        folder = self.config.output
        progress = {"step": self.step, "seconds": self.seconds, "config": json.loads(self.config.model_dump_json())}
        if self.scaler.is_enabled():
            progress["scaler"] = self.scaler.state_dict()
        save_checkpoint(checkpoint_path(folder, self.step), self.adapter, self.optimizer, self.ema, progress)
        # By age, for damaged ones that were passed over may be of later steps.
        by_age = sorted(checkpoints(folder), key=lambda path: path.stat().st_mtime_ns)
        for old in by_age[: -self.config.keep_checkpoints]:
            old.unlink()
