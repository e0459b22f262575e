"""Runs that are killed outright, several times, and go on to the same result."""

import signal
from pathlib import Path

import pytest
import torch

from runs import end, events, fork, painted_clips, wait_for, write_config
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


def test_a_run_killed_again_and_again_is_the_uninterrupted_run_to_the_bit(config_file, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([str(config_file), "--output", str(whole)]) == 0
    expected = dict(losses(whole))
    assert list(expected) == list(range(1, STEPS + 1))
    go_on = [str(config_file), "--output", str(cut), "--resume", "latest"]
    for lines in (3, 7):
        process, log = fork(["train", *go_on], tmp_path / "errors"), cut / "log.jsonl"
        wait_for(lambda lines=lines, log=log: log.exists() and log.read_bytes().count(b"\n") >= lines, process)
        assert end(process, signal.SIGKILL) == -signal.SIGKILL
    assert cli.main(go_on) == 0
    found = losses(cut)
    assert len(found) > STEPS  # some steps were done twice
    assert all(loss == expected[step] for step, loss in found)
    assert {step for step, _ in found} == set(expected)
    one, two = (load_adapter(folder / "adapter.safetensors").state_dict() for folder in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)
