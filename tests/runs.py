"""Small runs of the trainer for tests: painted clips, a config that takes seconds, and what a run has logged."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sdxl_anime_video.__main__ import main
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.commands.interrupts import SIGNALS

SMALL = {"resolution": 64, "frames": [4], "clips_per_step": 1, "warmup_steps": 0, "device": "cpu", "threads": 1}
STEPS = ["--steps", "4", "--frames", "[3, 4]", "--threads", "1", "--warmup-steps", "2", "--checkpoint-steps", "2"]


def painted_clips(folder: Path) -> Path:
    """Three painted clips of five frames in the folder."""
    assert paint_clips.main([str(folder), "--count", "3", "--frames", "5", "--size", "64"]) == 0
    return folder


def write_config(folder: Path, **fields: Any) -> Path:
    """A config file of a small run in the folder."""
    path = folder / "config.yaml"
    path.write_text(json.dumps({**SMALL, **fields}, default=str))
    return path


def events(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, steps that were done twice included."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in events(folder) if "loss" in event]


def fork(arguments: list[str], errors: Path, **environment: str) -> BaseProcess:
    """Start the command line in a fork of this process, which has imported PyTorch already; stderr goes to a file.

    Not for a command that uses Lance, because a fork has none of its threads.
    """

    def run() -> None:
        sys.stdout = sys.stderr = errors.open("w", buffering=1, encoding="utf-8")
        os.environ.update(environment)
        for number in SIGNALS:  # the tests themselves may run where some are ignored
            signal.signal(number, signal.SIG_DFL)
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def forks():
    """Starts processes as forks of one that has imported the large libraries, but nothing of ours, and not Lance."""
    server = multiprocessing.get_context("forkserver")
    models = ("autoencoders", "controlnets", "unets.unet_2d_condition")
    server.set_forkserver_preload([f"diffusers.models.{name}" for name in models])
    return server


def wait_for(sight: Callable[[], Any], process: BaseProcess, seconds: float = 240) -> None:
    """Wait until `sight` is true of what the process does."""
    until = time.monotonic() + seconds
    while not sight():
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.005)


def end(process: BaseProcess, number: signal.Signals) -> int | None:
    """Send a signal; return the exit status, which is the negative number of a signal that ended the process."""
    os.kill(process.pid, number)
    process.join(120)
    return process.exitcode
