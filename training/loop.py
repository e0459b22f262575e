"""One training run: a frozen base, an adapter, and steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..temporal.adapter import TemporalAdapter, save_adapter
from ..temporal.hosts.diffusers import TemporalUNet, unet_sites
from ..temporal.noise import mix_frames
from . import objective
from .base import Base
from .checkpoint import (
    CheckpointError,
    checkpoint_path,
    checkpoints,
    read_checkpoint,
    read_latest,
    restore,
    save_checkpoint,
)
from .config import TrainConfig
from .data import ClipSource, draw_batch, longest_draw
from .interrupts import held_back
from .muon import Muon
from .precision import autocast, uses_bf16

Report = Callable[[dict[str, Any]], None]
VALIDATION_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.97)  # of the training timesteps
FIXED = ("max_frames", "norm", "pos_value", "optimizer")  # what a run keeps when it goes on
_VALIDATION_STEP = -1  # takes the place of the step in seeds


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Everything random in a step comes from here, so a resumed run draws what an uninterrupted one would."""
    import hashlib

    digest = hashlib.sha256(f"{seed}/{step}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def parameter_groups(adapter: TemporalAdapter, config: TrainConfig) -> list[dict[str, Any]]:
    """The optimizer's groups: gates and positions at rates of their own, decay on matrices only."""
    rate = config.learning_rate
    groups = {
        "matrix": {"params": [], "peak": rate, "weight_decay": config.weight_decay, "orthogonal": True},
        "vector": {"params": [], "peak": rate, "weight_decay": 0.0},
        "gate": {"params": [], "peak": config.gate_learning_rate or rate, "weight_decay": 0.0},
        "position": {"params": [], "peak": config.position_learning_rate or rate, "weight_decay": 0.0},
    }
    for name, parameter in adapter.named_parameters():
        kind = {"gate": "gate", "pos_emb": "position", "pos_value": "position"}.get(name.rsplit(".", 1)[-1])
        groups[kind or ("matrix" if parameter.ndim > 1 else "vector")]["params"].append(parameter)
    return [{**group, "lr": group["peak"]} for group in groups.values() if group["params"]]


class Trainer:
    """Owns the adapter, its optimizer and the run folder. `run()` trains until the steps or the minutes are used up."""

    def __init__(self, config: TrainConfig, base: Base, clips: ClipSource, report: Report = lambda event: None):
        self.config, self.base, self.clips, self.report = config, base, clips, report
        self.device = torch.device(
            config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
        torch.manual_seed(config.seed)  # the adapter's first values
        sites = unet_sites(base.unet)
        self.adapter = TemporalAdapter.create(
            sites, max_frames=config.max_frames, norm=config.norm, pos_value=config.pos_value, init=config.init
        ).to(self.device)
        self.unet = TemporalUNet(base.unet.to(self.device, memory_format=torch.channels_last), self.adapter)
        if self.device.type == "cpu" and uses_bf16(self.device, config.precision):
            from diffusers.models.attention_processor import AttnProcessor

            base.unet.set_attn_processor(AttnProcessor())  # fused attention's backward pass is slow there
        if config.gradient_checkpointing:
            base.unet.enable_gradient_checkpointing()
            base.unet.train()  # diffusers checkpoints only then; an SDXL UNet has no dropout
        make = Muon if config.optimizer == "muon" else torch.optim.AdamW
        self.optimizer = make(parameter_groups(self.adapter, config), betas=config.betas)
        self.ema = (
            {name: value.detach().clone() for name, value in self.adapter.state_dict().items()} if config.ema else {}
        )
        self.sigmas = base.sigmas.double()
        self.step = 0
        self.seconds = 0.0
        held_out = clips.buckets()[0][: config.validation_clips]
        self.held_out = held_out
        self.buckets = [left for bucket in clips.buckets() if (left := [i for i in bucket if i not in held_out])]
        if not self.buckets:
            raise ValueError(
                f"validation_clips: {config.validation_clips} leaves none of {len(clips)} clips to train on"
            )
        if config.resume:
            self._resume(config.resume)

    def _resume(self, source: str) -> None:
        checkpoint = read_latest(self.config.output) if source == "latest" else read_checkpoint(Path(source))
        if checkpoint is None:
            return
        made, now = {"optimizer": "adamw", **checkpoint.progress["config"]}, dict(self.config)
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

    def predict(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        caption: torch.Tensor,
        positions: torch.Tensor | None,
        chosen: list[int],
    ) -> torch.Tensor:
        """The model's output `[B, F, 4, h, w]` for noisy latents of that shape, timesteps `[B]`, captions `[B]`."""
        clips, frames = noisy.shape[:2]
        tokens, pooled = (part.to(self.device).repeat_interleave(frames, 0) for part in self.clips.text(caption))
        sizes = torch.stack([self.clips.time_ids(i) for i in chosen]).to(self.device)  # [b, 6]
        added = {"text_embeds": pooled, "time_ids": sizes.repeat_interleave(frames, 0)}  # [(b f), ...]
        with autocast(self.device, self.config.precision):
            out = self.unet(
                noisy.flatten(0, 1).to(self.device, memory_format=torch.channels_last),
                timestep.repeat_interleave(frames).to(self.device),
                encoder_hidden_states=tokens,
                added_cond_kwargs=added,
                num_frames=frames,
                positions=positions,
            )
        return out.sample.float().unflatten(0, (clips, frames))

    def draw_noise(self, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        """Noise `[B, F, 4, h, w]`, correlated over frames in the configured share of clips."""
        config = self.config
        noise = torch.randn(shape, generator=generator)
        if config.noise_correlation:
            chance = torch.rand(len(noise), generator=generator)
            for i in range(len(noise)):
                base = torch.randn(shape[2:], generator=generator)
                if chance[i] < config.noise_probability:
                    noise[i] = mix_frames(noise[i], base, config.noise_mode, config.noise_correlation)
        return noise

    def clip_losses(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
        caption: torch.Tensor,
        positions: Any,
        chosen: list[int],
    ) -> torch.Tensor:
        """Weighted loss of each of the chosen clips `[B]`."""
        config, prediction = self.config, self.base.prediction
        sigma = self.sigmas[timestep].float()
        noisy = objective.add_noise(latents, noise, sigma)
        target = objective.training_target(latents, noise, sigma, prediction).to(self.device)
        error = (self.predict(noisy, timestep, caption, positions, chosen) - target).square().flatten(1).mean(1)
        weight = objective.loss_weight(sigma, prediction, config.min_snr_gamma, config.snr_floor)
        return error * weight.to(self.device)

    def _batch_losses(self, part: int) -> torch.Tensor:
        config = self.config
        generator = step_generator(config.seed, self.step, part)
        latents, caption, self.chosen = draw_batch(
            self.clips, self.buckets, config.clips_per_step, config.frames, generator
        )
        count, frames = latents.shape[:2]
        dropped = torch.rand(count, generator=generator) < config.caption_dropout
        caption = torch.where(dropped, 0, caption)
        # One number in each of `count` equal parts of [0, 1), in random order: less variance than free draws.
        uniform = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        timestep = objective.timesteps(uniform, len(self.sigmas), config.high_noise_bias)
        offset = 0
        if config.random_positions:
            offset = int(torch.randint(config.max_frames - frames + 1, (1,), generator=generator))
        positions = torch.arange(offset, offset + frames, device=self.device)
        noise = self.draw_noise(latents.shape, generator)
        return self.clip_losses(latents, noise, timestep, caption, positions, self.chosen)

    def train_step(self) -> float:
        """One optimizer step; returns its mean loss. Raises FloatingPointError if that is not finite."""
        config = self.config
        progress = self.step / config.steps
        if config.minutes:
            progress = max(progress, self.seconds / (60 * config.minutes))
        scale = objective.learning_rate_scale(self.step, config.warmup_steps, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        total = 0.0
        for part in range(config.accumulation):
            loss = self._batch_losses(part).mean() / config.accumulation
            loss.backward()
            total += loss.item()
        if not total < float("inf"):
            names = ", ".join(self.clips.names[i] for i in self.chosen)
            raise FloatingPointError(f"loss is {total} at step {self.step}, clips {names}; the last checkpoint is kept")
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in self.adapter.state_dict().items() if self.ema else ():
            # A young average follows the weights, so that it does not remember the silent start.
            self.ema[name].lerp_(value, 1 - min(config.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return total

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the adapter has the weights that a save would write: the moving average where there is one."""
        kept = {name: value.detach().clone() for name, value in self.adapter.state_dict().items()}
        self.adapter.load_state_dict(self.ema or kept)
        try:
            yield
        finally:
            self.adapter.load_state_dict(kept)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the held-out clips at fixed noise levels, noise and positions; by level and in the mean."""
        config = self.config
        frames = min([max(config.frames), *(self.clips.lengths[i] for i in self.held_out)])
        latents = torch.stack([self.clips.frames(i, 0, frames) for i in self.held_out])
        caption = torch.tensor([self.clips.caption[i] for i in self.held_out])
        found = {}
        for level in VALIDATION_LEVELS:
            noise = self.draw_noise(latents.shape, step_generator(config.seed, _VALIDATION_STEP))
            timestep = torch.full((len(latents),), int(level * len(self.sigmas)))
            with self.averaged():
                losses = self.clip_losses(latents, noise, timestep, caption, None, self.held_out)
                found[f"validation_{level}"] = losses.mean().item()
        return {"validation": sum(found.values()) / len(found), **found}

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the adapter (its moving average where there is one) with what it was trained on."""
        config = self.config
        trained = {
            **metadata,
            "trained_frames": str(longest_draw(self.clips, self.buckets, config.clips_per_step, config.frames)),
            "trained_noise": describe_noise(config),
            "trained_steps": str(self.step),
        }
        with self.averaged():
            save_adapter(self.adapter, path, trained)

    def checkpoint(self) -> None:
        folder = self.config.output
        progress = {"step": self.step, "seconds": self.seconds, "config": json.loads(self.config.model_dump_json())}
        save_checkpoint(checkpoint_path(folder, self.step), self.adapter, self.optimizer, self.ema, progress)
        for old in checkpoints(folder)[: -self.config.keep_checkpoints]:
            old.unlink()

    def finished(self) -> bool:
        config = self.config
        return self.step >= config.steps or (config.minutes is not None and self.seconds >= 60 * config.minutes)

    def _step_and_report(self) -> None:
        config = self.config
        began = time.monotonic()
        loss = self.train_step()
        event: dict[str, Any] = {"step": self.step, "loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}
        if self.held_out and (self.step % config.validation_steps == 0 or self.step == config.steps):
            event |= self.validate()
        self.seconds += time.monotonic() - began
        self.report({**event, "seconds": round(self.seconds, 3)})

    def run(self) -> None:
        """Train to the end; on an interrupt, which waits for the step to end, the last step has its checkpoint."""
        config = self.config
        saved_step, saved_seconds = self.step, self.seconds
        if self.held_out and self.step == 0:
            self.report({"step": 0, **self.validate()})
        try:
            while not self.finished():
                with held_back():
                    self._step_and_report()
                due_by_steps = config.checkpoint_steps and self.step - saved_step >= config.checkpoint_steps
                due_by_time = (
                    config.checkpoint_minutes and self.seconds - saved_seconds >= 60 * config.checkpoint_minutes
                )
                if due_by_steps or due_by_time:
                    self.checkpoint()
                    saved_step, saved_seconds = self.step, self.seconds
        except KeyboardInterrupt:
            if self.step > saved_step:
                self.checkpoint()
            raise
        if self.step > saved_step:
            self.checkpoint()


def describe_noise(config: TrainConfig) -> str:
    """`trained_noise` of an adapter's metadata, such as `shared 0.5 in 70% of clips, else independent`."""
    if not config.noise_correlation or not config.noise_probability:
        return "independent"
    share = "" if config.noise_probability == 1 else f" in {config.noise_probability:.0%} of clips, else independent"
    return f"{config.noise_mode} {config.noise_correlation:g}{share}"
