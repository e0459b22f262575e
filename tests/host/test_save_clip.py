"""Save Clip in the real ComfyUI: files, graph, preview, and what is refused."""

import json
import re
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image

from clips import painted
from node_runs import Interrupted, names, progress, stop, with_hidden
from sdxl_anime_video.media.reader import probe_clip, read_clip
from sdxl_anime_video.nodes.save_clip import SaveClip

PROMPT = {"7": {"class_type": "SAV_SaveClip", "inputs": {"fps": 12.0}, "is_changed": [float("nan")]}}
WORKFLOW = {"nodes": [{"id": 7, "type": "SAV_SaveClip"}], "links": [], "version": 0.4}


def images(frames=4, height=32, width=48):
    return torch.from_numpy(painted(frames, height, width)) / 255


def save(*values, extra=None, **named) -> io.NodeOutput:
    node = with_hidden(SaveClip, prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW, **(extra or {})})
    return node.execute(*values, **named)


def test_saves_plays_and_hands_on(output):
    result = save(images(), 8.5, "video/night")
    path = output / "video" / "night_00001_.mp4"
    assert names(output) == ["video/night_00001_.mp4"]
    assert result.ui.as_dict() == {
        "images": [{"filename": path.name, "subfolder": "video", "type": "output"}],
        "animated": (True,),
    }
    clip, fps = read_clip(path)
    assert clip.shape == (4, 32, 48, 3) and fps == Fraction(17, 2)
    video = result.args[0]
    assert video.get_dimensions() == (48, 32)
    parts = video.get_components()
    assert parts.images.shape == (4, 32, 48, 3) and parts.frame_rate == Fraction(17, 2) and parts.audio is None
    assert (parts.images - images()).abs().mean() < 0.05, "core must read our colours as we meant them"


def test_numbers_go_up(output):
    for _ in range(3):
        save(images(), 12, "clip")
    assert names(output) == [f"clip_0000{n}_.mp4" for n in (1, 2, 3)]


def test_graph_is_in_the_file(output):
    save(images(), 12, "clip")
    tags = probe_clip(output / "clip_00001_.mp4").metadata
    assert tags["workflow"] == WORKFLOW
    assert tags["prompt"] == {**PROMPT, "7": {**PROMPT["7"], "is_changed": [None]}}


def test_disable_metadata_is_honoured(output, monkeypatch):
    monkeypatch.setattr(args, "disable_metadata", True)
    save(images(), 12, "clip", save_frames=True)
    assert not {"workflow", "prompt"} & set(probe_clip(output / "clip_00001_.mp4").metadata)
    assert not {"workflow", "prompt"} & set(json.loads((output / "clip_00001_.json").read_text()))
    assert not Image.open(output / "clip_00001_frames" / "frame_00000.png").text


def test_frames_are_saved_beside_the_clip(output):
    save(images(3, 31, 47), 23.976, "clip", 20, True)
    assert names(output) == [
        "clip_00001_.json",
        "clip_00001_.mp4",
        *(f"clip_00001_frames/frame_0000{n}.png" for n in range(3)),
    ]
    facts = json.loads((output / "clip_00001_.json").read_text())
    assert (facts["frames"], facts["fps"], facts["width"], facts["height"], facts["crf"]) == (
        3,
        "24000/1001",
        47,
        31,
        20,
    )
    assert facts["workflow"] == WORKFLOW and facts["clip"] == "clip_00001_.mp4"
    for index, frame in enumerate(painted(3, 31, 47)):
        picture = Image.open(output / (facts["stills"] % index))
        assert np.array_equal(np.asarray(picture), frame), "PNG is lossless and of the true size"
        assert json.loads(picture.text["workflow"]) == WORKFLOW
    save(images(), 12, "clip")
    assert (output / "clip_00002_.mp4").is_file(), "the folder of frames counts as the same number"


def test_sound(output):
    sound = {"waveform": torch.sin(torch.arange(44100) / 10).expand(1, 2, -1), "sample_rate": 44100}
    result = save(images(6), 12, "clip", audio=sound)
    heard = result.args[0].get_components().audio
    assert heard["sample_rate"] == 44100 and heard["waveform"].shape[1] == 2
    assert abs(heard["waveform"].shape[2] / 44100 - 0.5) < 0.06


def test_progress_is_shown(output):
    with progress() as seen:
        save(images(5), 12, "clip")
    assert seen[0] == (1, 5) and seen[-1] == (5, 5)  # newer versions of ComfyUI omit updates that come too fast
    assert seen == sorted(seen)


def test_interrupt_leaves_nothing(output):
    with progress(stop), pytest.raises(Interrupted):
        save(images(5), 12, "clip", save_frames=True)
    assert list(output.iterdir()) == []


def broken():
    pictures = images()
    pictures[2, 0, 0, 0] = float("nan")
    return pictures


@pytest.mark.parametrize(
    "values, words",
    [
        ((broken(), 12, "clip"), "Save Clip: frame 2 holds NaN.*fp32-vae"),
        ((images(0), 12, "clip"), "Save Clip: images has shape.*at least one picture"),
        ((images()[0], 12, "clip"), "Save Clip: images has shape"),
        ((images()[..., :1], 12, "clip"), "Save Clip: images has shape"),
        ((images(), 0, "clip"), "Save Clip: fps must be a number above 0, got 0"),
        ((images(), -1.0, "clip"), "Save Clip: fps must be"),
        ((images(), float("nan"), "clip"), "Save Clip: fps must be"),
        ((images(), 12, "clip", 99), "Save Clip: crf must be"),
        ((images(), 12, ""), "Save Clip: filename_prefix ''"),
        ((images(), 12, "./"), "Save Clip: filename_prefix"),
        ((images(), 12, "a/.."), r"Save Clip: filename_prefix 'a/\.\.'"),
        ((images(), 12, "a\0b"), r"Save Clip: filename_prefix 'a\\x00b'"),
        ((torch.zeros(1, 2, 20000, 3), 12, "clip"), r"Save Clip: frames of 20000x2 px are too large for H\.264"),
    ],
)
@pytest.mark.parametrize("save_frames", [False, True])
def test_refused(output, values, words, save_frames):
    with pytest.raises(ValueError, match=words):
        save(*values, save_frames=save_frames)
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("prefix", ["../escape", "a/../../escape", "/tmp/escape"])
def test_output_folder_is_not_left(output, prefix):
    with pytest.raises(ValueError, match=f"Save Clip: filename_prefix '{prefix}' leads outside the output folder"):
        save(images(), 12, prefix)
    assert list(output.iterdir()) == [] and not list(output.parent.glob("escape*"))


@pytest.mark.parametrize("save_frames", [False, True])
@pytest.mark.parametrize("prefix", ["file/clip", "x" * 300], ids=["a file for a folder", "too long"])
def test_places_where_nothing_can_be_written(output, prefix, save_frames):
    (output / "file").write_text("no folder")
    with pytest.raises(OSError, match=f"^Save Clip: cannot save {re.escape(str(output / prefix))}: .*filename_prefix"):
        save(images(), 12, prefix, save_frames=save_frames)
    assert names(output) == ["file"]


@contextmanager
def files_of_at_most(size: int):
    """Files end at this many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("save_frames", [False, True])
def test_a_full_disk(output, save_frames):
    with (
        files_of_at_most(3000),
        pytest.raises(OSError, match=r"^Save Clip: cannot save .*clip: File too large; free space"),
    ):
        save(torch.rand(9, 64, 64, 3), 12, "clip", save_frames=save_frames)
    assert list(output.iterdir()) == []


def test_a_disk_that_is_full_at_the_last_file(output):
    """The JSON file needs the most space: its settings are indented, those in the clip and the pictures are not."""
    with files_of_at_most(700_000), pytest.raises(OSError, match=r"^Save Clip: cannot save .*clip: "):
        save(images(1), 12, "clip", save_frames=True, extra={"a": [{}] * 120_000})
    assert list(output.iterdir()) == []


def test_keys_of_any_script(output):
    save(images(1), 12, "clip", save_frames=True, extra={"ключ": {"a": 1}, "clé": "b"})
    text = Image.open(output / "clip_00001_frames" / "frame_00000.png").text
    assert text.keys() == {"workflow", "prompt", r"\u043a\u043b\u044e\u0447", "clé"}
    assert json.loads((output / "clip_00001_.json").read_text())["ключ"] == {"a": 1}


def test_after_a_killed_run_the_next_takes_the_same_name_and_clears_up(output):
    (output / ".clip_00001_.mp4.part").write_bytes(b"half")
    save(images(), 12.0, "clip")
    assert names(output) == ["clip_00001_.mp4"]
