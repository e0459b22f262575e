"""`sdxl-anime-video render` through its command line, on the toon model."""

import json
import re
import signal
import time

import numpy as np
import pytest
import torch

from runs import end, fork, wait_for
from sdxl_anime_video import __main__ as command
from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.commands.overrides import parse_overrides, read_config
from sdxl_anime_video.media.reader import probe_clip, read_clip
from sdxl_anime_video.rendering import render as verb
from sdxl_anime_video.rendering.config import RenderConfig
from sdxl_anime_video.schedulers.best_hq import percent_to_sigma, training_sigmas
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.temporal.hosts.diffusers.sampling import best_hq
from sdxl_anime_video.temporal.hosts.diffusers.text import plain_prompt

QUICK = ["--frames", "4", "--steps", "2", "--width", "64", "--height", "64", "--device", "cpu"]


@pytest.fixture
def config(repository, tmp_path):
    """The example, with the paths of this test."""
    said = json.loads((repository / "training" / "configs" / "render_toon.json").read_text())
    said |= {"output": str(tmp_path / "out" / "clip.mp4"), "adapter": str(repository / said["adapter"])}
    path = tmp_path / "render.json"
    path.write_text(json.dumps(said))
    return path


def run(config, *words, capsys):
    status = command.main(["render", str(config), *words])
    return status, *capsys.readouterr()


def test_the_example_renders_a_clip(config, tmp_path, capsys):
    status, out, errors = run(config, *QUICK, "--save-frames", "true", capsys=capsys)
    clip = tmp_path / "out" / "clip.mp4"
    assert (status, out) == (0, f"{clip}\n") and "toon: the toon world's own model" in errors
    frames, fps = read_clip(clip)
    assert frames.shape == (4, 64, 64, 3) and fps == 12 and frames.std() > 10
    assert sorted(path.name for path in (tmp_path / "out" / "clip_frames").iterdir()) == [
        f"frame_{i:05d}.png" for i in range(4)
    ]
    said = probe_clip(clip).metadata["render"]
    assert said["settings"]["prompt"].splitlines() == ["girl, blue hair, red dress, sunset,", "0: run", "50%: jump"]
    assert (said["settings"]["frames"], said["settings"]["noise_mode"]) == (4, "progressive")
    assert said["adapter"]["trained_frames"] == "16" and said["checkpoint"].startswith("toon")
    again = RenderConfig(**said["settings"])  # what is in the file is enough to render it again
    assert again.output == clip and again.steps == 2


def test_the_seed_decides_and_nothing_is_overwritten(config, tmp_path, capsys):
    words = ("--frames", "2", "--steps", "1", "--width", "64", "--height", "64", "--prompt", "run", "--crf", "0")

    def clip(name, seed, *more):
        assert run(config, *words, "--output", str(tmp_path / name), "--seed", seed, *more, capsys=capsys)[0] == 0
        return read_clip(tmp_path / name)[0]

    first = clip("a.mp4", "1")
    assert np.array_equal(first, clip("b.mp4", "1")) and not np.array_equal(first, clip("c.mp4", "2"))
    before = (tmp_path / "a.mp4").read_bytes()
    status, _, errors = run(config, *words, "--output", str(tmp_path / "a.mp4"), capsys=capsys)
    assert status == 1 and "a.mp4 is there already; name another, or set overwrite to true" in errors
    assert (tmp_path / "a.mp4").read_bytes() == before
    clip("a.mp4", "2", "--overwrite", "true")
    assert (tmp_path / "a.mp4").read_bytes() != before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--promt", "run"], "command line: unknown field 'promt'; did you mean 'prompt'?"),
        (["--width", "100"], "width: Input should be a multiple of 8 (given: 100)"),
        (["--frames", "0"], "frames: Input should be greater than or equal to 1 (given: 0)"),
        (["--output", "clip.avi"], "output: clip.avi does not end in .mp4"),
        (["--adapter", "none.safetensors"], "adapter: 'none.safetensors' is not there"),
        (["--segment-frames", "4"], "segment_overlap: 4 is not below segment_frames 4; lower it"),
        (["--prompts-by-segment", "true"], "prompts_by_segment: there are no segments; set segment_frames"),
        (["--prompt", "0: run\n99: jump"], "prompt: line 2 ('99: jump'): position 99 is outside the clip"),
        (["--prompt", "girl, (run:1.2)"], "prompt: '(' in 'girl, (run:1.2)' would be a weight or an embedding"),
        (["--negative", "embedding:bad"], "negative: 'embedding:bad' in 'embedding:bad' would be"),
        (["--noise-mode", "freenoise", "--noise-overlap", "16"], "freenoise overlap is 16 and window 16"),
        (["--frames", "30"], "30 frames at once are more than the adapter's max_frames 24; set segment_frames to 16"),
        (["--checkpoint", "sdxl"], "checkpoint 'sdxl' does not exist; give a .safetensors file"),
        (["--prompt", "run " * 80], "a prompt has 80 words and commas, and the toon model reads 75; shorten it"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(config, tmp_path, capsys, words, message):
    status, out, errors = run(config, *QUICK, *words, capsys=capsys)
    line = next(line for line in errors.splitlines() if line.startswith("error: render: "))
    assert status == 1 and not out and message in line
    assert not list((tmp_path / "out").glob("*"))


def test_more_frames_than_were_trained_are_said(config, capsys):
    words = ("--frames", "17", "--steps", "1", "--width", "64", "--height", "64")
    status, _, errors = run(config, *words, capsys=capsys)
    assert status == 0 and "warning: 17 frames at once, and the adapter was trained on 16" in errors
    status, _, errors = run(config, *words, "--segment-frames", "9", "--overwrite", "true", capsys=capsys)
    assert status == 0 and "warning" not in errors


def test_an_adapter_for_another_model_is_refused(config, tmp_path, capsys):
    from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
    from sdxl_anime_video.temporal.weights.adapter_file import save_adapter

    other = TemporalAdapter.create({"mid_block.attentions.0.transformer_blocks.0": (64, 1)})
    save_adapter(other, tmp_path / "other.safetensors")
    status, _, errors = run(config, *QUICK, "--adapter", str(tmp_path / "other.safetensors"), capsys=capsys)
    assert status == 1 and "error: render: " in errors and "missing in the adapter" in errors


def test_a_frame_that_is_no_picture_leaves_no_file(config, tmp_path):
    """NaN in the last frame, as a VAE in half precision gives them."""
    words = parse_overrides(QUICK, RenderConfig)
    settings = read_config(config, {**words, "save_frames": True}, RenderConfig)
    settings.output.parent.mkdir()
    frames = torch.rand(4, 64, 64, 3)
    frames[3, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="frame 3 holds NaN"):
        verb.write(settings, iter(frames), {}, lambda *_: None)
    assert not list(settings.output.parent.iterdir())


def test_an_interrupt_leaves_nothing(config, tmp_path):
    process = fork(["render", str(config), *QUICK, "--steps", "10000"], tmp_path / "errors")
    wait_for((tmp_path / "out").exists, process)
    time.sleep(1)
    assert end(process, signal.SIGTERM) == 130
    assert "interrupted; nothing was written" in (tmp_path / "errors").read_text()
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_to_is_known_before_sampling(config, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert command.main(["render", str(config), "--output", str(tmp_path / "file" / "clip.mp4")]) == 1
    error = capsys.readouterr().err
    assert f"error: render: output: the folder {tmp_path / 'file'} cannot be written to" in error
    assert "toon" not in error  # no model was loaded
    assert command.main(["render", str(tmp_path)]) == 1
    assert f"config {tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segment_carry": "last_frame"}, "segment_carry: there are no segments; set segment_frames"),
        ({"anchor_positions": "9, 99"}, "anchor_positions: position 99 is outside the clip of 16 frame"),
        ({"segment_carry_denoise": 0, "segment_frames": 8}, "segment_carry_denoise: Input should be greater than 0"),
    ],
)
def test_segments_and_anchors_that_cannot_be_are_refused(tmp_path, fields, message):
    path = tmp_path / "render.json"
    path.write_text(json.dumps({"output": "clip.mp4", "prompt": "run", "frames": 16, **fields}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_config(path, {}, RenderConfig)


def test_help_lists_every_field(capsys):
    assert command.main(["render", "--help"]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    for name, field in RenderConfig.model_fields.items():
        assert f"--{name.replace('_', '-')} (" in out and field.description, name
        assert " ".join(field.description.split()) in words


def test_a_config_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "render.json"
    path.write_text('{"prompt": "run",}')
    with pytest.raises(ConfigError, match=r"render.json: not a JSON file: .*line 1"):
        read_config(path, {}, RenderConfig)
    path.write_text('["run"]')
    with pytest.raises(ConfigError, match="expected `field: value`"):
        read_config(path, {}, RenderConfig)


def test_brackets_are_written_as_in_comfyui():
    assert plain_prompt(r"girl \(smiling\), run", "prompt") == "girl (smiling), run"


def test_shares_of_the_schedule():
    table = training_sigmas(0.00085, 0.012, "scaled_linear", 1000)
    assert percent_to_sigma(0, table) == float("inf") and percent_to_sigma(1, table) == 0
    assert percent_to_sigma(1 - 500 / 999, table) == pytest.approx(float(table[500]), rel=1e-6)
    assert table[499] < percent_to_sigma(1 - 499.5 / 999, table) < table[500]
    assert percent_to_sigma(1e-9, table) == pytest.approx(float(table[-1]), rel=1e-6)


def test_a_model_of_zero_terminal_snr_begins_where_comfyui_does():
    base = load_base("toon")
    base.prediction, base.scheduler_config = "v_prediction", {"rescale_betas_zero_snr": True}
    scheduler = best_hq(base)
    scheduler.set_timesteps(4)
    assert float(scheduler.sigmas[0]) == pytest.approx(4518.76, rel=1e-5) and int(scheduler.timesteps[0]) == 999
