"""One training run into its folder: config, log, curves, checkpoints, rendered clips, report, adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...commands.interrupts import held_back
from ...commands.revision import git_revision
from ..config.schedule import config_at
from ..config.train import TrainConfig

if TYPE_CHECKING:
    from ...temporal.hosts.diffusers.base import Base
    from ..clips.source import ClipSource
    from .journal import Tracker
    from .processes import Processes
    from .progress import Bars
    from .trainer import Trainer

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train to the end into `config.output`; returns the file of weights there. Every process of a run calls it."""
    import torch

    from ...commands.precision import base_dtype
    from ...temporal.hosts.diffusers.base import load_base
    from ..step import hints as hinted
    from ..step import layers
    from .checkpoint import checkpoints
    from .processes import Processes
    from .progress import Bars
    from .run_folder import alone, begin, write_config
    from .trainer import Trainer

    if config.threads:
        torch.set_num_threads(config.threads)
    revision = git_revision()  # of the code that runs, whatever is checked out when it ends
    with Processes(config.device) as processes, Bars(config, quiet=not processes.main) as bars:
        adapter = config.output / layers.file_name(config)
        begin(config, adapter, processes)
        with alone(config.output, processes):
            require_clips(config)
            base = load_base(config.base, base_dtype(processes.device, config.precision))
            layers.require(
                config, base, resumed=config.resume not in (None, "latest") or bool(checkpoints(config.output))
            )
            hinted.require(config, base, bars.checked)
            trainer = Trainer(config, base, load_stage(config_at(config, 0), base, processes, bars), processes)
            if processes.main:
                write_config(config)
            with _trackers(config, trainer.step, processes, bars) as report, _advice(trainer, bars):
                Run(trainer, bars, report).to_the_end()
            if processes.main:
                trainer.save(adapter, training_record(trainer.stage, base, trainer.clips, revision))
                bars.say(f"{adapter}: {trainer.step} steps in {trainer.seconds / 60:.1f} minutes")
    return adapter


def require_clips(config: TrainConfig) -> None:
    """Raises ValueError where the clips of a stage are not there, or none of them would be left to train on.

    That is said now, not after a day of the stage before it.
    """
    from ..clips.folder import find_clips
    from ..clips.prepared import is_cache, require_resolution
    from .validation import none_left

    for stage in (config_at(config, began) for began in (0.0, *(earlier.until for earlier in config.stages))):
        if is_cache(stage.clips):
            require_resolution(stage.clips, stage.resolution)
        elif (count := len(find_clips(stage.clips))) <= stage.validation_clips:
            raise none_left(stage.validation_clips, count)


def load_stage(stage: TrainConfig, base: Base, processes: Processes, bars: Bars) -> ClipSource:
    """The clips of a stage. The first process encodes those that are not encoded yet."""
    from ..clips.folder import load_clips

    with processes.main_first():
        clips = load_clips(
            stage.clips, base, stage.resolution, stage.precision, bars.encoded, shortest=min(stage.frames)
        )
    bars.encoded(len(clips), len(clips))
    return clips


@contextmanager
def _trackers(config: TrainConfig, step: int, processes: Processes, bars: Bars) -> Iterator[Tracker]:
    """What takes the events of the run; nothing where this process does not write."""
    from .journal import log_file, tensorboard

    with ExitStack() as stack:
        trackers: list[Tracker] = []
        if processes.main:
            trackers.append(stack.enter_context(log_file(config.output / "log.jsonl")))
            if config.tensorboard:
                trackers.append(stack.enter_context(tensorboard(config.output / "tensorboard", step + 1)))
            trackers.append(bars.event)

        def report(event: dict[str, Any]) -> None:
            for tracker in trackers:
                tracker(event)

        yield report


@contextmanager
def _advice(trainer: Trainer, bars: Bars) -> Iterator[None]:
    """Turn what is raised where memory runs out into a message that helps."""
    from ...commands.precision import arithmetic
    from ..estimate.advice import OutOfMemory, explain, is_out_of_memory, largest_clip

    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        stage = trainer.stage
        size = stage.clips_per_step, *largest_clip(trainer.clips, max(stage.frames))
        half = arithmetic(trainer.device, stage.precision).itemsize == 2
        gpu = trainer.device.type == "cuda"
        unet_config = trainer.base.unet.config
    # Only here are the tensors of the step gone, which the error's traceback held.
    trainer.optimizer.zero_grad(set_to_none=True)
    bars.say("out of memory; estimating what would help")
    raise OutOfMemory(explain(stage, unet_config, size, half, gpu, trainer.step))


class Run:
    """Steps, and what is due between them. All processes go through it in step."""

    def __init__(self, trainer: Trainer, bars: Bars, report: Tracker):
        self.trainer, self.config, self.processes = trainer, trainer.config, trainer.processes
        self.bars, self.report = bars, report
        self.saved = trainer.step, trainer.seconds

    def to_the_end(self) -> None:
        """Train until the steps or the minutes are used up.

        An interrupt waits for the step to end, and the last step has its checkpoint; so it has where clips cannot be
        read any more. Among several processes the first that hears of an interrupt tells the others at the end of the
        step, and all stop together.
        """
        from ..clips.source import DataError

        trainer, config = self.trainer, self.config
        self._enter_stage()
        if trainer.held_out and trainer.step == 0:
            self.report({"step": 0, **trainer.validate()})
        many = self.processes.count > 1
        with held_back() if many else nullcontext([]) as signals:
            try:
                while not trainer.finished():
                    self._enter_stage()
                    with held_back():
                        self._step()
                    if self.processes.sum(len(signals))[0]:
                        raise KeyboardInterrupt
                    if config.sample_steps and (trainer.step % config.sample_steps == 0 or trainer.finished()):
                        self._sample()
                    if self._checkpoint_due():
                        self._checkpoint()
            except (KeyboardInterrupt, DataError) as stop:
                if isinstance(stop, KeyboardInterrupt) or not many:  # an error may be one process's alone
                    with held_back():
                        self._checkpoint()
                raise
            self._checkpoint()

    def _enter_stage(self) -> None:
        stage = config_at(self.config, self.trainer.progress())
        if stage != self.trainer.stage:
            clips = self.trainer.clips
            if (stage.clips, stage.resolution, min(stage.frames)) != (
                self.trainer.stage.clips,
                self.trainer.stage.resolution,
                min(self.trainer.stage.frames),
            ):
                clips = load_stage(stage, self.trainer.base, self.processes, self.bars)
            self.trainer.enter(stage, clips)

    def _took(self, began: float) -> float:
        """Seconds since `began` by the first process's clock, which the run's own time counts."""
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
        if trainer.held_out and (trainer.step % config.validation_steps == 0 or trainer.step == config.steps):
            began = time.monotonic()
            event |= trainer.validate()
            self.bars.eta.other("validation", self._took(began))
        self.report({**event, "seconds": round(trainer.seconds, 3)})

    def _sample(self) -> None:
        from .samples import sample

        began = time.monotonic()
        name = f"samples/step-{self.trainer.step:08d}"
        found = sample(self.trainer, self.config.output / name)
        self.bars.eta.other("samples", self._took(began))
        self.report({"step": self.trainer.step, "samples": name, **found})

    def _checkpoint_due(self) -> bool:
        config, trainer = self.config, self.trainer
        step, seconds = self.saved
        by_steps = config.checkpoint_steps and trainer.step - step >= config.checkpoint_steps
        by_time = config.checkpoint_minutes and trainer.seconds - seconds >= 60 * config.checkpoint_minutes
        return bool(by_steps or by_time)

    def _checkpoint(self) -> None:
        """Write a checkpoint and the report, unless this step has one."""
        from .report import write_report

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


def training_record(config: TrainConfig, base: Base, clips: ClipSource, revision: str) -> dict[str, str]:
    """Metadata of an adapter: what it was trained on, and by which revision of this program."""
    sizes = {f"{width * base.factor}x{height * base.factor}" for height, width in clips.sizes}
    return {
        "trained_base": Path(config.base).name,
        "trained_dataset": config.dataset or config.clips.name,
        "trained_fps": f"{clips.fps:g}",
        "trained_resolution": ", ".join(sorted(sizes)),
        "trained_revision": revision,
        **({"trained_start": config.start.name} if config.start else {}),
    }
