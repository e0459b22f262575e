"""Motion modules by the trainer: the same program, another kind of weights."""

import pytest
import torch

from runs import STEPS, write_config
from sdxl_anime_video import __main__ as command
from sdxl_anime_video.temporal.hosts.diffusers.base import on_schedule_of
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.weights.formats import load_layers
from sdxl_anime_video.temporal.weights.header import WeightsFileError
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module, save_motion_module
from sdxl_anime_video.training.run import verb as cli

UP_AND_DOWN = {"down.0.0", "down.1.0", "up.0.0", "up.0.1", "up.1.0", "up.1.1"}
PLACE = Site("up", 0, 0)


@pytest.fixture
def config_file(tmp_path, clips_folder):
    return write_config(tmp_path, clips=clips_folder, output=tmp_path / "run", learning_rate=1e-2, clips_per_step=2)


def names(sites):
    return {f"{site.direction}.{site.block}.{site.layer}" for site in sites}


def moved(module):
    module.reset_parameters()
    for site in module.sites:
        torch.nn.init.normal_(module.site(site).proj_out.weight)
    return module


@pytest.mark.parametrize(
    "kind, more, places",
    [("animatediff", ["--motion-places", "[up.0.1]"], {"up.0.1"}), ("hotshot", [], UP_AND_DOWN)],
)
def test_a_run_leaves_a_module_that_loads_and_says_how_it_was_made(config_file, tmp_path, capsys, kind, more, places):
    assert cli.main([str(config_file), *STEPS, "--kind", kind, "--validation-clips", "1", "--ema", "0.5", *more]) == 0
    path = tmp_path / "run" / "motion_module.safetensors"
    module = load_motion_module(path)
    assert (module.format, module.max_frames, module.beta_schedule) == (kind, 24, (0.00085, 0.012))
    assert names(module.sites) == places
    assert not module.is_silent()
    assert module.metadata["trained_frames"] == "4"
    capsys.readouterr()
    assert command.main(["inspect", str(path)]) == 0
    assert "trained_steps: 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--kind", "animatediff", "--norm", "false"], "kind: animatediff has no norm; leave that out"),
        (["--kind", "hotshot", "--gate-learning-rate", "1"], "kind: hotshot has no gate_learning_rate"),
        (["--motion-attentions", "1"], "kind: adapter has no motion_attentions"),
        (["--kind", "animatdiff"], "kind: Input should be 'adapter', 'animatediff' or 'hotshot'"),
        (["--kind", "animatediff", "--motion-places", "[up.9.0]"], "motion_places: up.9.0 is not in the base's UNet"),
        (["--kind", "animatediff", "--motion-places", "[]"], "motion_places: List should have at least 1 item"),
        (["--kind", "animatediff", "--motion-places", "[up.0.0, up.0.0]"], "motion_places: names a place twice"),
        (["--kind", "animatediff", "--motion-attentions", "17"], "motion_attentions: Input should be less than"),
        (["--max-frames", "1000000000"], "max_frames: Input should be less than or equal to 4096"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(config_file, capsys, words, message):
    assert cli.main([str(config_file), *STEPS, *words]) == 1
    assert message in capsys.readouterr().err


def test_a_run_of_another_kind_is_not_gone_on_with(config_file, capsys):
    assert cli.main([str(config_file), *STEPS, "--kind", "animatediff"]) == 0
    assert cli.main([str(config_file), *STEPS, "--resume", "latest"]) == 1
    assert "made with kind animatediff, not adapter" in capsys.readouterr().err


def test_a_run_begins_with_the_weights_of_a_file(config_file, tmp_path, capsys):
    assert cli.main([str(config_file), *STEPS, "--kind", "hotshot"]) == 0
    made = tmp_path / "run" / "motion_module.safetensors"
    again = ["--start", str(made), "--output", str(tmp_path / "again"), "--learning-rate", "1e-30"]
    assert cli.main([str(config_file), *STEPS, "--kind", "hotshot", *again]) == 0
    before, after = (
        load_motion_module(path).state_dict() for path in (made, tmp_path / "again" / "motion_module.safetensors")
    )
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert load_motion_module(tmp_path / "again" / made.name).metadata["trained_start"] == made.name
    made.unlink()  # a run that goes on needs it no more, and takes no other
    assert cli.main([str(config_file), *STEPS, "--kind", "hotshot", *again, "--resume", "latest"]) == 0
    capsys.readouterr()
    again[1] = str(tmp_path / "again" / "motion_module.safetensors")
    assert cli.main([str(config_file), *STEPS, "--kind", "hotshot", *again, "--resume", "latest"]) == 1
    assert f"was made with start {made}, not {again[1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, messages",
    [
        ([], ["holds motion module weights; set kind to hotshot"]),
        (
            ["--kind", "animatediff", "--max-frames", "32", "--motion-places", "[up.0.1]", "--motion-attentions", "1"],
            [
                "motion_places: the file has up_blocks.0.motion_modules.0 128, the run up_blocks.0.motion_modules.1 ",
                "kind: the file has hotshot, the run animatediff",
                "max_frames: the file has 24, the run 32",
                "motion_attentions: the file has 2, the run 1",
            ],
        ),
        (["--start", "none.safetensors"], ["start: none.safetensors: none.safetensors does not exist"]),
        (["--start", ""], ["start: is empty; name a file"]),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_clips_are_read(config_file, tmp_path, capsys, words, messages):
    start = tmp_path / "start.safetensors"
    save_motion_module(moved(MotionModule(MotionConfig({PLACE: 128}, "hotshot", 24))), start)
    (unread := tmp_path / "unread").mkdir()
    (unread / "broken.mp4").touch()
    more = ["--output", str(tmp_path / "other"), "--clips", str(unread)]
    assert cli.main([str(config_file), *STEPS, "--start", str(start), *more, *words]) == 1
    errors = capsys.readouterr().err
    assert all(message in errors for message in messages), errors
    assert not [path.name for path in (tmp_path / "other").glob("[!.]*")]


def test_rendering_takes_the_noise_levels_of_the_training(toon):
    own, base = (MotionModule(MotionConfig({PLACE: 128}, betas=betas)) for betas in (None, (0.00085, 0.012)))
    assert on_schedule_of(toon, base) is toon
    changed = on_schedule_of(toon, own)
    assert changed.sigmas[-1] == pytest.approx(65.9, abs=0.1)
    assert toon.sigmas[-1] == pytest.approx(14.6, abs=0.1)


def test_files_are_told_apart_and_converted(tmp_path, capsys):
    module = moved(
        MotionModule(MotionConfig({PLACE: 128}, max_frames=8, heads=4, groups=16, betas=(0.0008512345, 0.0123456)))
    )
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_motion_module(module, whole)
    assert isinstance(load_layers(whole), MotionModule)
    assert command.main(["convert", str(whole), str(half), "--dtype", "F16"]) == 0
    assert {value.dtype for value in load_motion_module(half).parameters()} == {torch.float16}
    assert load_motion_module(half).config == module.config
    assert command.main(["convert", str(half), str(tmp_path / "x.safetensors"), "--dtype", "F8"]) == 1
    assert "--dtype F8 is none of F32, F16, BF16" in capsys.readouterr().err
    for target, message in ((half, "is there already"), (tmp_path / "x.ckpt", "does not end in .safetensors")):
        assert command.main(["convert", str(whole), str(target)]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(WeightsFileError, match=r"nothing\.safetensors does not exist"):
        load_layers(tmp_path / "nothing.safetensors")
