"""The trainer on a handful of painted clips and the toon base, through its command line where it can be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from runs import STEPS, events, losses, write_config
from sdxl_anime_video.__main__ import main
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.temporal.weights.formats import load_layers
from sdxl_anime_video.training.clips.folder import fit, load_clips, read_caption
from sdxl_anime_video.training.clips.source import Clips, DataError
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.step.batch import draw_clips, draw_noise, longest_draw
from sdxl_anime_video.training.step.optimizers import Average


@pytest.fixture
def config_file(tmp_path, clips_folder):
    return write_config(tmp_path, clips=clips_folder, output=tmp_path / "run", learning_rate=1e-3, clips_per_step=2)


def test_the_command_trains_an_adapter_that_loads_and_says_how_it_was_made(config_file, tmp_path, capsys):
    assert main(["train", str(config_file), *STEPS, "--validation-clips", "1"]) == 0
    assert "4 steps" in capsys.readouterr().err
    adapter = load_adapter(tmp_path / "run" / "adapter.safetensors")
    said = adapter.metadata
    assert (said["trained_frames"], said["trained_noise"], said["trained_steps"]) == ("4", "independent", "4")
    assert (said["trained_fps"], said["trained_resolution"], said["trained_clips"]) == ("12", "64x64", "2")
    assert any(adapter.loudness().values())
    assert len(losses(tmp_path / "run")) == 4
    assert events(tmp_path / "run")[0]["validation"] > 0
    assert main(["inspect", str(tmp_path / "run" / "adapter.safetensors")]) == 0
    assert "trained_steps: 4" in capsys.readouterr().out


def test_too_many_clips_kept_out_are_refused_before_any_is_encoded(config_file, clips_folder, capsys):
    before = set(clips_folder.iterdir())
    assert cli.main([str(config_file), "--validation-clips", "3", "--resolution", "80"]) == 1
    assert set(clips_folder.iterdir()) == before
    assert "validation_clips: 3 leaves none of 3 clips to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, recorded",
    [([], "painted"), (["--clips", "{clips}"], "{name}"), (["--clips", "{clips}", "--dataset", "mine"], "mine")],
)
def test_the_name_of_the_clips_belongs_to_the_configs_clips(tmp_path, clips_folder, words, recorded):
    config = write_config(tmp_path, clips=clips_folder, output=tmp_path / "run", dataset="painted")
    given = [word.format(clips=clips_folder) for word in words]
    assert cli.main([str(config), "--steps", "1", "--frames", "[3]", *given]) == 0
    said = load_adapter(tmp_path / "run" / "adapter.safetensors").metadata
    assert said["trained_dataset"] == recorded.format(name=clips_folder.name)


@pytest.mark.parametrize(
    "more",
    [
        ["--optimizer", "adamw"],
        ["--optimizer", "muon"],
        ["--optimizer", "muon", "--kind", "animatediff", "--motion-places", "[up.0.1]"],
    ],
)
def test_resumed_run_is_the_uninterrupted_run_to_the_bit(config_file, tmp_path, more):
    options = [*STEPS, "--ema", "0.9", "--noise-correlation", "0.5", "--accumulation", "2", *more]
    assert cli.main([str(config_file), *options, "--keep-checkpoints", "9"]) == 0
    whole, cut = tmp_path / "run", tmp_path / "cut"
    cut.mkdir()
    (cut / "checkpoint-00000002.safetensors").write_bytes((whole / "checkpoint-00000002.safetensors").read_bytes())
    assert cli.main([str(config_file), *options, "--output", str(cut), "--resume", "latest"]) == 0
    assert losses(cut) == losses(whole)[2:]
    name = "motion_module" if "--kind" in more else "adapter"
    one, two = (load_layers(folder / f"{name}.safetensors").state_dict() for folder in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_other_settings_is_refused(config_file, tmp_path, capsys):
    assert cli.main([str(config_file), *STEPS, "--optimizer", "muon"]) == 0
    (path, *_) = (tmp_path / "run").glob("checkpoint-*.safetensors")
    assert cli.main([str(config_file), *STEPS, "--resume", str(path)]) == 1
    assert "was made with optimizer muon, not adamw" in capsys.readouterr().err
    changed = ["--optimizer", "muon", "--max-frames", "32", "--norm", "false", "--pos-value", "false"]
    assert cli.main([str(config_file), *STEPS, *changed, "--resume", str(path)]) == 1
    error = capsys.readouterr().err
    assert "made with max_frames 24, not 32; norm True, not False; pos_value True, not False" in error


def test_a_refused_command_leaves_the_run_as_it_was(config_file, tmp_path, capsys):
    from filelock import FileLock

    words, run = [str(config_file), *STEPS, "--keep-checkpoints", "9"], tmp_path / "run"
    assert cli.main(words) == 0
    before = {path.name: path.read_bytes() for path in run.glob("*.*") if path.is_file()}
    capsys.readouterr()
    refused = [
        (["--norm", "false", "--resume", "latest"], "was made with norm True, not False"),
        (["--resume", "nope"], "nope does not exist"),
        (["--resume", str(run / "checkpoint-00000002.safetensors")], "holds later checkpoints (checkpoint-00000004"),
        (["--clips", str(tmp_path / "nowhere"), "--resume", "latest"], "nowhere"),
    ]
    for more, message in refused:
        assert cli.main([*words, *more]) == 1
        assert message in capsys.readouterr().err
    with FileLock(run / ".lock"):
        assert cli.main([*words, "--resume", "latest"]) == 1
    assert "another run is writing into" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.glob("*.*") if path.is_file()} == before
    for path in run.glob("checkpoint-*"):
        path.unlink()
    assert cli.main(words) == 1
    assert "holds adapter.safetensors of an earlier run" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["adapter", "animatediff"])
def test_only_the_layers_are_trained(trainer, toon, kind):
    run = trainer(kind=kind)
    before = {name: value.clone() for name, value in toon.unet.state_dict().items()}
    new = {name: value.clone() for name, value in run.layers.named_parameters()}
    tables = {name: value.clone() for name, value in run.layers.named_buffers()}
    for _ in range(2):
        run.train_step()
    assert all(p.grad is None and not p.requires_grad for p in toon.unet.parameters())
    assert set(before) == set(toon.unet.state_dict())
    assert all(torch.equal(before[name], value) for name, value in toon.unet.state_dict().items())
    # after two steps even what sits behind the zero projection
    assert all(not torch.equal(new[name], value) for name, value in run.layers.named_parameters())
    assert bool(tables) == (kind == "animatediff")
    assert all(torch.equal(tables[name], value) for name, value in run.layers.named_buffers())
    assert {value.dtype for value in run.layers.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["adapter", "animatediff"])
def test_untrained_layers_have_the_base_loss(trainer, kind):
    run = trainer(kind=kind, validation_clips=1)
    untrained = run.validate()
    run.unet.strength = 0
    assert run.validate() == untrained


def test_training_lowers_the_loss_of_what_it_saw(trainer):
    run = trainer(steps=12, clips_per_step=2, learning_rate=3e-3, caption_dropout=0, random_positions=False)
    run.data.held_out = [0, 1]
    before = run.validate()["validation"]
    while not run.finished():
        run.train_step()
    assert run.validate()["validation"] < before


@pytest.mark.parametrize("kind", ["adapter", "hotshot"])
def test_gradient_checkpointing_changes_no_loss(trainer, kind):
    losses = []
    for on in (False, True):
        run = trainer(kind=kind, learning_rate=1e-2, gradient_checkpointing=on)
        losses.append([run.train_step() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_is_validated_and_saved_is_the_moving_average(trainer, tmp_path):
    run = trainer(ema=0.9, learning_rate=1e-2, validation_clips=1)
    follow = {name: value.clone() for name, value in run.average.values.items()}
    for step in range(3):
        run.train_step()
        rate = 1 - min(0.9, (1 + step) / (10 + step))
        follow = {name: value + rate * (run.layers.state_dict()[name] - value) for name, value in follow.items()}
    current = {name: value.clone() for name, value in run.layers.state_dict().items()}
    averaged = run.validate()["validation"]
    run.save(tmp_path / "a.safetensors", "unknown")
    assert all(torch.equal(current[name], value) for name, value in run.layers.state_dict().items())
    saved = load_adapter(tmp_path / "a.safetensors").state_dict()
    for name, value in saved.items():
        torch.testing.assert_close(value, follow[name], rtol=1e-4, atol=1e-6)
    assert not all(torch.equal(current[name], saved[name]) for name in saved)
    run.average = Average(run.layers, 0)
    assert run.validate()["validation"] != averaged


def test_learning_rates_by_part(trainer):
    run = trainer(learning_rate=1e-3, gate_learning_rate=1e-2, position_learning_rate=3e-3, weight_decay=0.1)
    names = {id(p): name for name, p in run.layers.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in run.optimizer.param_groups for p in g["params"]}
    assert len(found) == len(names)
    for name, settings in found.items():
        kinds = {"gate": (1e-2, 0), "pos_emb": (3e-3, 0), "pos_value": (3e-3, 0), "bias": (1e-3, 0)}
        expected = kinds.get(name.rsplit(".", 1)[-1])
        assert settings == (expected or (1e-3, 0 if ".norm." in name else 0.1)), name


def test_noise_of_a_clip_is_correlated_as_asked(trainer):
    run = trainer(noise_correlation=0.7, noise_probability=0.5)
    assert run.config.describe_noise() == "shared 0.7 in 50% of clips, else independent"
    noise = draw_noise(
        torch.Size((200, 4, 4, 16, 16)), torch.Generator().manual_seed(0), run.config.last_noise()
    ).flatten(2)
    assert noise.var() == pytest.approx(1, abs=0.02)
    correlation = (noise[:, 0] * noise[:, 1]).mean(1)
    mixed = correlation > 0.35
    assert correlation[mixed].mean() == pytest.approx(0.7, abs=0.02)
    assert correlation[~mixed].mean() == pytest.approx(0, abs=0.02)
    assert 0.35 < mixed.float().mean() < 0.65


def test_latents_are_encoded_once(toon, clips_folder):
    load_clips(clips_folder, toon, 64)
    calls = []
    again = load_clips(clips_folder, toon, 64, "fp32", lambda done, total: calls.append(done))
    assert calls == []
    assert [latent.shape for latent in again.latents] == [(5, 4, 8, 8)] * 3
    assert again.fps == 12
    load_clips(clips_folder, toon, 48, "fp32", lambda done, total: calls.append(done))
    assert calls == [1, 2, 3]  # another size, other latents


def test_batches_are_cut_from_clips_of_one_size():
    latents = [
        torch.full((length, 4, h, 8), float(i)) for i, (length, h) in enumerate([(9, 8), (5, 8), (9, 4), (9, 8)])
    ]
    clips = Clips(latents, [1, 2, 3, 4], torch.zeros(5, 1, 1), torch.zeros(5, 1), ["a", "b", "c", "d"], 12)
    assert clips.buckets() == [[2], [0, 1, 3]]
    seen = set()
    for seed in range(40):
        drawn = draw_clips(clips, clips.buckets(), 2, [4, 8], torch.Generator().manual_seed(seed))
        (frames,) = {len(clip.latents) for clip in drawn}
        numbers = {clip.number for clip in drawn}
        assert all((clip.latents == clip.number).all() for clip in drawn)
        assert all(0 <= clip.start <= clips.lengths[clip.number] - frames for clip in drawn)
        assert frames == 4 or (frames == 8 and 1 not in numbers)
        seen |= numbers
    assert seen == {0, 1, 2, 3}


def test_the_longest_draw_is_of_what_can_be_drawn():
    lengths = [9, 5, 12]
    clips = Clips(
        [torch.zeros(n, 4, 8, 8) for n in lengths], [0] * 3, torch.zeros(1, 1, 1), torch.zeros(1, 1), ["a"] * 3, 12
    )
    assert longest_draw(clips, [[0, 1, 2]], 1, [4, 8, 12, 16]) == 12
    assert longest_draw(clips, [[0, 1, 2]], 2, [4, 8, 12, 16]) == 8  # a batch of two has one clip of 9 at best
    assert longest_draw(clips, [[0, 1], [2]], 2, [4, 8, 12, 16]) == 12  # a lone clip comes twice
    assert longest_draw(clips, [[1]], 2, [4, 8]) == 4


def test_pictures_are_scaled_and_cropped():
    frames = np.zeros((2, 100, 210, 3), np.uint8)
    assert fit(frames, None, 16).shape == (2, 96, 208, 3)
    assert fit(frames, 48, 16).shape == (2, 48, 96, 3)


def test_captions_come_from_json_or_text(tmp_path):
    video = tmp_path / "a.mp4"
    with pytest.raises(DataError, match=r"write one to a\.txt beside it"):
        read_caption(video)
    video.with_suffix(".txt").write_text(" from text\n")
    assert read_caption(video) == "from text"
    video.with_suffix(".json").write_text(json.dumps({"caption": "from json"}))
    assert read_caption(video) == "from json"
    video.with_suffix(".json").write_text("[1]")
    with pytest.raises(DataError, match="not a JSON object"):
        read_caption(video)


def spoil_video(folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "bad.txt").write_text("x")


def spoil_caption(folder: Path) -> None:
    spoil_video(folder)
    (folder / "bad.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda folder: None, [], "no video"),
        (spoil_video, [], "bad.mp4: cannot be read"),
        (spoil_caption, [], "bad.mp4: no caption"),
        (lambda folder: None, ["--clips", "/nowhere"], "/nowhere does not exist"),
        (
            lambda folder: (folder / "a.mp4").touch(),
            ["--base", "/nowhere"],
            "checkpoint '/nowhere' does not exist; give a .safetensors file, a diffusers folder, or toon",
        ),
        (lambda folder: None, ["--stps", "1"], "did you mean 'steps'"),
    ],
)
def test_user_errors_are_one_line_without_a_traceback(config_file, tmp_path, capsys, spoil, options, message):
    folder = tmp_path / "in"
    folder.mkdir()
    spoil(folder)
    assert cli.main([str(config_file), "--clips", str(folder), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("kind", ["missing", "foreign", "truncated"])
def test_what_cannot_be_resumed_from_is_named(config_file, tmp_path, capsys, kind):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    if kind != "missing":
        save_file({"a": torch.zeros(3)}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    assert cli.main([str(config_file), *STEPS, "--resume", str(path)]) == 1
    assert "resume: " + str(path) in capsys.readouterr().err
