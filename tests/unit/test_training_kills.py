"""Runs that are killed outright, several times, and go on to the same result."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from runs import events, painted_clips, write_config
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.training.run import verb as cli

STEPS = 8


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    return write_config(
        folder,
        clips=painted_clips(folder / "clips"),
        frames=[3, 4],
        steps=STEPS,
        optimizer="muon",
        learning_rate=1e-3,
        warmup_steps=2,
        ema=0.9,
        temporal_dropout=0.3,
        noise_curriculum=[{"until": 0.5, "correlation": 0.8}],
        noise_correlation=0.4,
        stages=[{"until": 0.4, "resolution": 48}],
        checkpoint_steps=2,
        checkpoint_minutes=None,
    )


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(event["step"], event["loss"]) for event in events(folder)]


def run_until_killed(arguments: list[str], log: Path, lines: int) -> int:
    """Run the command in a process of its own and kill it once so many lines were logged; its exit status, or -9."""
    pid = os.fork()
    if pid == 0:
        os._exit(cli.main(arguments))
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            break
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_run_killed_again_and_again_is_the_uninterrupted_run_to_the_bit(config_file, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([str(config_file), "--output", str(whole)]) == 0
    expected = dict(losses(whole))
    assert list(expected) == list(range(1, STEPS + 1))
    go_on = [str(config_file), "--output", str(cut), "--resume", "latest"]
    for lines in (3, 7):
        assert run_until_killed(go_on, cut / "log.jsonl", lines) == -signal.SIGKILL
    assert cli.main(go_on) == 0
    found = losses(cut)
    assert len(found) > STEPS  # some steps were done twice
    assert all(loss == expected[step] for step, loss in found)
    assert {step for step, _ in found} == set(expected)
    one, two = (load_adapter(folder / "adapter.safetensors").state_dict() for folder in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)
