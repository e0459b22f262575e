"""`python -m sdxl_anime_video.demo.run`, as `make demo` calls it, on few frames and steps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import av
import pytest
from PIL import Image

CAPTION = "girl, blue hair, white dress, sunset, run"


def command(out, *more):
    return [sys.executable, "-u", "-m", "sdxl_anime_video.demo.run", "--caption", CAPTION, "--out", str(out), *more]


def answers(url):
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url + "/system_stats", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def processes_with(text):
    """Process ids whose command line contains a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture
def environment(tmp_path):
    """A temporary folder of its own, by which the server of this run can be told from others."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {key: value for key, value in os.environ.items() if key not in ("CHECKPOINT", "ADAPTER")}
    return scratch, {**env, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}


def test_it_renders_measures_and_cleans_up(tmp_path, environment):
    scratch, env = environment
    out = tmp_path / "out"
    short = command(out, "--frames", "3", "--steps", "2")
    done = subprocess.run(short, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jerkiness" in done.stdout
    assert done.stdout.rstrip().endswith("index.html")

    report = json.loads((out / "report.json").read_text("utf-8"))
    ways = ["independent frames", "shared noise alone", "temporal adapter"]
    assert [clip["variant"] for clip in report["clips"]] == [*ways, "painted"]
    assert (report["frames"], report["steps"], report["cfg"]) == (3, 2, 3.0)
    assert report["adapter"] == "toon/toon_adapter.safetensors" and report["noise"]["mode"]
    for clip in report["clips"]:
        assert {"flicker", "warp_error", "identity_drift", "limb_ratio", "jerkiness", "action"} <= clip.keys()
    assert report["mean"]["painted"]["action"] > 0.9
    assert len({clip["flicker"] for clip in report["clips"]}) == 4  # each way gives another clip
    for clip in report["clips"][:-1]:
        with av.open(str(out / clip["file"])) as container:
            assert len(list(container.decode(video=0))) == 3
    with av.open(str(out / "side_by_side.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width >= 3 * 128
    with Image.open(out / "side_by_side.webp") as moving:
        assert (moving.n_frames, moving.info["loop"]) == (3, 0)
    page = (out / "index.html").read_text("utf-8")
    assert page.count("data:image/webp") == 4 and not re.search(r"(src|href)=|https?://", page)  # one file, no network
    assert list(out.glob("*.part")) == []
    assert list(scratch.glob("sav-comfy-*")) == []
    assert processes_with(str(scratch)) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stopping_it_stops_the_server(tmp_path, environment, name):
    scratch, env = environment
    out = tmp_path / "out"
    long = command(out, "--steps", "900")

    def hear():  # the tests themselves may run where it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(long, env=env, cwd=tmp_path, preexec_fn=hear, **pipe) as running:
        try:
            assert running.stdout is not None
            url = next(
                found.group() for line in running.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            deadline = time.monotonic() + 60  # in the midst of sampling
            while "got prompt" not in (out / "comfyui.log").read_text() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)
            assert answers(url)
            running.send_signal(getattr(signal, name))
            assert running.wait(timeout=30) == 130
        finally:
            running.kill()
    assert not answers(url)
    assert processes_with(str(scratch)) == []
    assert list(scratch.glob("sav-comfy-*")) == []


def test_missing_files_are_named_before_anything_starts(tmp_path, environment):
    _, env = environment
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comfyui.log").write_text("of an earlier run")
    (tmp_path / "there.safetensors").touch()
    for files, answer in (
        (
            ["--checkpoint", "none.safetensors", "--adapter", "no.safetensors"],
            "CHECKPOINT=none.safetensors: there is no",
        ),
        (["--checkpoint", "there.safetensors", "--adapter", "no.safetensors"], "ADAPTER=no.safetensors: there is no"),
        (["--checkpoint", "there.safetensors"], "ADAPTER=: a checkpoint and its temporal adapter go together"),
        (["--frames", "1"], "--frames is 1; it must be from 2 to 4096"),
        (["--out", "there.safetensors"], "--out there.safetensors is a file"),
    ):
        done = subprocess.run(
            command(tmp_path / "out", *files), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1
        assert answer in done.stdout
        assert "earlier run" not in done.stdout
