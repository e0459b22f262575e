"""The trainer among short clips, damaged files, full disks and signals."""

import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from runs import end, events, fork, wait_for, write_config
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.commands import interrupts
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.training.clips.folder import load_clips, read_caption
from sdxl_anime_video.training.clips.source import DataError
from sdxl_anime_video.training.run import verb as cli


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Four clips, of 5, 5, 3 and 1 frames."""
    folder = tmp_path_factory.mktemp("painted")
    for number, frames in enumerate((5, 5, 3, 1)):
        options = ["--count", "1", "--frames", str(frames), "--size", "64", "--seed", str(number)]
        assert paint_clips.main([str(folder / str(number)), *options]) == 0
    return folder


@pytest.fixture
def clips(painted, tmp_path):
    def choose(*numbers: int) -> Path:
        folder = tmp_path / "clips"
        folder.mkdir(exist_ok=True)
        for number in numbers:
            for file in (painted / str(number)).glob("00000.*"):
                shutil.copy(file, folder / f"{number}{file.suffix}")
        return folder

    return choose


@pytest.fixture
def config(tmp_path):
    def write(folder: Path, **fields) -> str:
        return str(write_config(tmp_path, **{"clips": folder, "output": tmp_path / "run", "steps": 2, **fields}))

    return write


def written(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run").iterdir())


def test_clips_too_short_for_every_step_are_left_out_by_name(clips, config, tmp_path, caplog):
    assert cli.main([config(clips(0, 2, 3), frames=[4, 24])]) == 0
    assert "fewer than 4 frames are left out: 2.mp4 (3), 3.mp4 (1)" in caplog.text
    said = load_adapter(tmp_path / "run" / "adapter.safetensors").metadata
    assert (said["trained_clips"], said["trained_frames"]) == ("1", "4")  # no clip has 24


def test_where_every_clip_is_too_short_the_error_names_them(clips, config, capsys):
    assert cli.main([config(clips(2, 3), frames=[8])]) == 1
    error = capsys.readouterr().err
    assert "frames: 8 is more than any clip in" in error and "2.mp4 (3), 3.mp4 (1)" in error


@pytest.mark.parametrize("content", [b"", b"junk", "half", "spoiled"])
def test_damaged_latents_are_encoded_again(clips, content, caplog):
    from sdxl_anime_video.temporal.hosts.diffusers.base import load_base

    toon, folder = load_base("toon"), clips(2)
    first = load_clips(folder, toon, 64)
    (cache,) = folder.glob(".latents-*.npz")
    sound = cache.read_bytes()
    middle = len(sound) // 2
    spoiled = {"half": sound[:middle], "spoiled": sound[:middle] + b"?" * 50 + sound[middle + 50 :]}
    cache.write_bytes(spoiled.get(content, content))
    again = load_clips(folder, toon, 64)
    assert f"{cache} is damaged" in caplog.text
    assert torch.equal(first.latents[0], again.latents[0])
    caplog.clear()
    load_clips(folder, toon, 64)
    assert not caplog.text


def test_latents_that_cannot_be_kept_do_not_stop_the_run(clips, config, tmp_path, caplog, full_disk):
    folder = clips(0)
    with full_disk(2500), caplog.at_level(logging.WARNING):
        # the limit holds for every file of the run
        assert cli.main([config(folder)]) == 1
    assert "cannot be written" in caplog.text and "encode the clips again" in caplog.text
    assert not list(folder.glob(".*"))


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(clips, config, tmp_path, capsys, full_disk):
    options = [config(clips(0)), "--checkpoint-steps", "1"]
    assert cli.main([*options, "--steps", "1"]) == 0
    before = written(tmp_path)
    capsys.readouterr()
    with full_disk(200_000):
        assert cli.main([*options, "--resume", "latest"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "checkpoint-00000002.safetensors cannot be written" in error
    assert "make room on the disk and go on with --resume latest" in error
    assert written(tmp_path) == before
    (tmp_path / "run" / "log.jsonl").write_bytes(b"{}\n" * 1000)
    with full_disk(3000):
        assert cli.main([*options, "--resume", "latest"]) == 1
    error = capsys.readouterr().err
    assert "log.jsonl" in error and "make room" in error
    assert cli.main([*options, "--resume", "latest"]) == 0


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(clips, config, tmp_path, capsys, caplog):
    options = [config(clips(0)), "--checkpoint-steps", "1"]
    assert cli.main(options) == 0
    one, two = sorted((tmp_path / "run").glob("checkpoint-*"))
    two.write_bytes(two.read_bytes()[:-100])
    assert cli.main([*options, "--resume", "latest", "--steps", "3"]) == 0
    assert f"{two} is damaged" in caplog.text and "the one before it is tried" in caplog.text
    steps = [event["step"] for event in events(tmp_path / "run")]
    assert steps == [1, 2, 2, 3]
    for path in (tmp_path / "run").glob("checkpoint-*"):
        path.write_bytes(b"x")
    assert cli.main([*options, "--resume", "latest"]) == 1
    assert "no checkpoint in" in capsys.readouterr().err


def test_an_average_that_begins_at_a_resume_begins_with_the_weights(clips, config, tmp_path):
    options = [config(clips(0)), "--checkpoint-steps", "1", "--learning-rate", "0.01"]
    assert cli.main(options) == 0
    done = tmp_path / "run" / "adapter.safetensors"
    plain = load_adapter(done).state_dict()
    assert cli.main([*options, "--resume", "latest", "--ema", "0.999"]) == 0  # no step is left to do
    assert all(torch.equal(value, plain[name]) for name, value in load_adapter(done).state_dict().items())


def test_a_caption_that_is_not_utf8_is_named(tmp_path):
    video = tmp_path / "a.mp4"
    video.with_suffix(".txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 text.*save it as UTF-8"):
        read_caption(video)
    video.with_suffix(".txt").write_bytes(b"\xef\xbb\xbfa girl")  # as Windows' editor saves it
    assert read_caption(video) == "a girl"


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_ends_the_run_with_a_checkpoint(clips, config, tmp_path, number):
    process, log = fork(["train", config(clips(0), steps=100_000)], tmp_path / "errors"), tmp_path / "run" / "log.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size, process)
    assert end(process, number) == 130
    assert "interrupted; go on with --resume latest" in (tmp_path / "errors").read_text()
    last = events(tmp_path / "run")[-1]["step"]
    made = ["config.yaml", "log.jsonl", "report.html", "tensorboard"]
    assert written(tmp_path) == [".lock", f"checkpoint-{last:08d}.safetensors", *made]


def test_a_signal_waits_for_the_end_of_a_step():
    done = []
    old = {number: signal.signal(number, signal.default_int_handler) for number in interrupts.SIGNALS}
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("whole")
        assert done == ["whole"]
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        interrupts.interrupt_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def test_an_output_that_is_a_file_or_lies_in_one_is_refused(clips, config, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/run"):
        assert cli.main([config(clips(0), output=tmp_path / place)]) == 1
        assert f"output: {tmp_path / place} cannot be written to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
