"""Two processes of `accelerate launch` on the CPU against one with twice the accumulation."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runs import events, fork, painted_clips, write_config
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.run.processes import Processes

TOLERANCE = 1e-6  # relative: sums of two are exact, but a library may choose another order for more threads


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return write_config(
        folder,
        clips=painted_clips(folder / "clips"),
        frames=[3, 4],
        steps=4,
        learning_rate=1e-3,
        ema=0.9,
        temporal_dropout=0.3,
        validation_clips=1,
        validation_steps=2,
        sample_steps=4,
        sampler_steps=2,
        checkpoint_steps=2,
    )


def curve(folder: Path) -> list[float]:
    return [event[name] for event in events(folder) for name in ("loss", "validation", "flicker") if name in event]


@pytest.fixture(scope="module")
def two(config_file):
    """The output of two processes: --multi_gpu makes accelerate start them, their device is the config's."""
    folder = config_file.parent / "two"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "sdxl_anime_video", "train", str(config_file), "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_are_one_with_twice_the_accumulation(config_file, two, tmp_path):
    assert cli.main([str(config_file), "--output", str(tmp_path), "--accumulation", "2"]) == 0
    assert [event["step"] for event in events(two)] == [0, 1, 2, 3, 4, 4]  # each step once: one process writes
    assert curve(two) == pytest.approx(curve(tmp_path), rel=TOLERANCE)
    one, other = (load_adapter(folder / "adapter.safetensors").state_dict() for folder in (two, tmp_path))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)
    names = sorted(path.relative_to(two) for path in two.rglob("*") if "tensorboard" not in path.parts)
    assert names == sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "tensorboard" not in path.parts
    )


def test_two_processes_resume_and_stop_together_at_a_loss_that_is_not_finite(config_file, two, tmp_path):
    """Started with the variables that a launcher sets, but without one, which would end the second after the first."""
    before = {path.name for path in two.glob("checkpoint-*")}
    logged = len(events(two))
    words = ["--output", str(two), "--resume", "latest", "--steps", "50", "--learning-rate", "1e30"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        fork(["train", str(config_file), *words], tmp_path / rank, **meeting, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [1, 1]
    said = (tmp_path / "0").read_text() + (tmp_path / "1").read_text()
    (error,) = re.findall(r"^error: .*$", said, re.MULTILINE)
    assert re.search(r"loss is (nan|inf).* at step \d+, clips \d+\.mp4, \d+\.mp4; the last checkpoint is kept", error)
    assert events(two)[logged]["step"] == 5
    assert before & {path.name for path in two.glob("checkpoint-*")}


def test_one_gpu_by_number_among_many_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="cuda:1 is one GPU for 2 processes; take auto"):
        Processes("cuda:1")
