"""One training run into its folder: config, log, curves, checkpoints, rendered clips, report, adapter."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ...commands.interrupts import held_back
from ...commands.precision import arithmetic, base_dtype
from ...commands.revision import git_revision
from ...temporal.hosts.diffusers.base import Base, load_base
from ..clips.folder import find_clips, load_clips
from ..clips.prepared import is_cache, require_resolution
from ..clips.source import ClipSource, DataError
from ..config.train import TrainConfig
from ..step import layers
from ..step.data import none_left
from ..step.hints import require_hints
from .checkpoint import checkpoints
from .journal import Tracker, trackers
from .memory import OutOfMemory, estimate, explain, is_out_of_memory, largest_clip
from .processes import Processes
from .progress import Bars
from .report import write_report
from .run_folder import alone, begin, write_config
from .samples import sample
from .trainer import Trainer

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train to the end; returns the file of weights in `config.output`. Every process of a run calls it."""
    revision = git_revision()  # read now, because another one may be checked out when the run ends
    with Processes(config.device) as processes, Bars(config, quiet=not processes.main) as bars:
        weights = config.output / layers.class_of(config).file_name
        begin(config, weights, processes)
        with alone(config.output, processes):
            trainer = set_up(config, processes, bars)
            if processes.main:
                write_config(config)
            with trackers(config, trainer.step, bars.event, processes.main) as report, _advice(trainer, bars):
                Run(trainer, bars, report).to_the_end()
            if processes.main:
                trainer.save(weights, revision)
                bars.say(f"{weights}: {trainer.step} steps in {trainer.seconds / 60:.1f} minutes")
    return weights


def set_up(config: TrainConfig, processes: Processes, bars: Bars) -> Trainer:
    """Return the trainer of a run, after all that can be checked before its first step."""
    if config.threads:
        torch.set_num_threads(config.threads)
    require_clips(config)
    base = load_base(config.base, base_dtype(processes.device, config.precision))
    resumed = config.resume not in (None, "latest") or (bool(config.resume) and bool(checkpoints(config.output)))
    layers.require(config, base, resumed)
    require_hints(config, base, bars.checked)
    clips = load_phase(config.at(0), base, processes, bars)
    return Trainer(config, base, clips, processes)


def require_clips(config: TrainConfig) -> None:
    """Raise ValueError where the clips of a training phase are missing, or none of them would be left to train on.

    The clips of later phases are checked too, so that no run fails after a day.
    """
    for began in (0.0, *(phase.until for phase in config.stages)):
        phase = config.at(began)
        if is_cache(phase.clips):
            require_resolution(phase.clips, phase.resolution)
        elif (count := len(find_clips(phase.clips))) <= phase.validation_clips:
            raise none_left(phase.validation_clips, count)


def load_phase(phase: TrainConfig, base: Base, processes: Processes, bars: Bars) -> ClipSource:
    """Return the clips of a training phase. The first process encodes those that are not encoded yet."""
    with processes.main_first():
        clips = load_clips(
            phase.clips, base, phase.resolution, phase.precision, bars.encoded, shortest=min(phase.frames)
        )
    bars.encoded(len(clips), len(clips))
    return clips


@contextmanager
def _advice(trainer: Trainer, bars: Bars) -> Iterator[None]:
    """Replace errors of memory by a message that names settings to change."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        phase = trainer.data.config
        size = phase.clips_per_step, *largest_clip(trainer.data.clips, max(phase.frames))
        half = arithmetic(trainer.device, phase.precision).itemsize == 2
        gpu = trainer.device.type == "cuda"
        unet_config = trainer.base.unet.config
    # The error's traceback held the tensors of the step until here.
    trainer.optimizer.zero_grad(set_to_none=True)
    bars.say("out of memory; estimating what would help")
    raise OutOfMemory(explain(estimate(unet_config, phase, half, gpu), size, trainer.step))


class Run:
    """The steps of a run, and validation, samples and checkpoints between them. All processes call it together."""

    def __init__(self, trainer: Trainer, bars: Bars, report: Tracker):
        self.trainer, self.config, self.processes = trainer, trainer.config, trainer.processes
        self.bars, self.report = bars, report
        self.saved = trainer.step, trainer.seconds

    def to_the_end(self) -> None:
        """Train until the steps or the minutes are used up.

        An interrupt waits for the end of the step, and the last step gets a checkpoint; it also does where clips cannot
        be read any more. Among several processes the one that is interrupted tells the others at the end of the step,
        and all stop together.
        """
        trainer, config = self.trainer, self.config
        self._enter_phase()
        if trainer.data.held_out and trainer.step == 0:
            self.report({"step": 0, **trainer.validate()})
        many = self.processes.count > 1
        with held_back() if many else nullcontext([]) as signals:
            try:
                while not trainer.finished():
                    self._enter_phase()
                    with held_back():
                        self._step()
                    if self.processes.sum(len(signals))[0]:
                        raise KeyboardInterrupt
                    if config.sample_steps and (trainer.step % config.sample_steps == 0 or trainer.finished()):
                        self._sample()
                    if self._checkpoint_due():
                        self._checkpoint()
            except (KeyboardInterrupt, DataError) as stop:
                if isinstance(stop, KeyboardInterrupt) or not many:  # an error may concern one process alone
                    with held_back():
                        self._checkpoint()
                raise
            self._checkpoint()

    def _enter_phase(self) -> None:
        phase, before = self.config.at(self.trainer.progress()), self.trainer.data.config
        if phase == before:
            return
        clips = self.trainer.data.clips
        if (phase.clips, phase.resolution, min(phase.frames)) != (before.clips, before.resolution, min(before.frames)):
            clips = load_phase(phase, self.trainer.base, self.processes, self.bars)
        self.trainer.enter(phase, clips)

    def _took(self, began: float) -> float:
        """Return the seconds since `began` by the first process's clock, and add them to the run's time."""
        (seconds,) = self.processes.sum(time.monotonic() - began if self.processes.main else 0.0)
        self.trainer.seconds += seconds
        return seconds

    def _step(self) -> None:
        trainer, config = self.trainer, self.config
        began = time.monotonic()
        loss = trainer.train_step()
        self.bars.eta.step(self._took(began))
        event: dict[str, Any] = {"step": trainer.step, "loss": loss, "lr": trainer.optimizer.param_groups[0]["lr"]}
        if trainer.scaler.is_enabled():
            event["loss_scale"] = trainer.scaler.get_scale()
        if trainer.data.held_out and (trainer.step % config.validation_steps == 0 or trainer.step == config.steps):
            began = time.monotonic()
            event |= trainer.validate()
            self.bars.eta.other("validation", self._took(began))
        self.report({**event, "seconds": round(trainer.seconds, 3)})

    def _sample(self) -> None:
        began = time.monotonic()
        name = f"samples/step-{self.trainer.step:08d}"
        with self.trainer.average.in_place():
            figures = sample(self.trainer.loss, self.trainer.data, self.processes, self.config.output / name)
        self.bars.eta.other("samples", self._took(began))
        self.report({"step": self.trainer.step, "samples": name, **figures})

    def _checkpoint_due(self) -> bool:
        config, trainer = self.config, self.trainer
        step, seconds = self.saved
        by_steps = config.checkpoint_steps and trainer.step - step >= config.checkpoint_steps
        by_time = config.checkpoint_minutes and trainer.seconds - seconds >= 60 * config.checkpoint_minutes
        return bool(by_steps or by_time)

    def _checkpoint(self) -> None:
        """Write a checkpoint and the report, unless this step has one."""
        began = time.monotonic()
        if self.trainer.step > self.saved[0]:
            if self.processes.main:
                self.trainer.checkpoint()
                try:
                    write_report(self.config.output, self.config.report_megabytes)
                except OSError as error:
                    log.warning("report.html cannot be written (%s); the run goes on without", error)
            self.bars.eta.other("checkpoint", self._took(began))
            self.saved = self.trainer.step, self.trainer.seconds
