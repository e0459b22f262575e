"""Training with hints at keyframes: what the ControlNet steers, what it leaves alone, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from runs import SMALL, events, write_config
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.training.clips.folder import load_clips
from sdxl_anime_video.training.clips.identity import NAME as IDENTITY
from sdxl_anime_video.training.clips.source import DataError
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.run.trainer import Trainer
from sdxl_anime_video.training.step import controlnet
from sdxl_anime_video.training.step.batch import Batch, Clip
from sdxl_anime_video.training.step.hints import require_hints

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def hints_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hints")
    assert paint_clips.main([str(folder), "--count", "3", "--frames", "5", "--size", "64", "--hint", "pose"]) == 0
    return folder


@pytest.fixture
def trainer(trainer, hints_folder):
    hints = {"controlnet": "toon", "hints": hints_folder, "keyframes": "0,100%"}
    return lambda **fields: trainer(**{**hints, **fields})


def predicted(run: Trainer, rows: list[int] | None) -> torch.Tensor:
    """The output for clip 1 from its second frame on, with hints of some of four frames."""
    noisy = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    hinted = None
    if rows is not None:
        hinted = run.data.hints.show([Clip(1, 1, noisy[0])], torch.arange(4), torch.tensor(rows))
    text, time_ids = run.data.clips.text(torch.tensor([1])), run.data.clips.time_ids(1)[None]
    with torch.no_grad():
        return run.loss.predict(noisy, Batch([1], noisy, noisy, torch.tensor([700]), text, time_ids, hinted=hinted))[0]


def test_only_frames_with_a_hint_are_steered(trainer):
    run = trainer()  # a new adapter is silent, so no frame knows of another
    plain, some, every = predicted(run, None), predicted(run, [0, 3]), predicted(run, [0, 1, 2, 3])
    assert (some[[1, 2]] - plain[[1, 2]]).abs().max() == 0
    assert torch.allclose(some[[0, 3]], every[[0, 3]], rtol=1e-4, atol=1e-5)
    assert all((every[i] - plain[i]).abs().max() > 0.01 for i in range(4))


def test_a_hint_is_the_picture_of_its_own_frame(trainer, clips_folder, toon):
    """Against diffusers' own call, with pictures drawn from the joints that the painter wrote beside the clip."""
    from types import SimpleNamespace

    import numpy as np

    from sdxl_anime_video.demo.hints import hint_pictures

    run = trainer()
    truth = json.loads((clips_folder / run.data.clips.names[1]).with_suffix(".json").read_text())
    drawn = hint_pictures(
        SimpleNamespace(joints=truth["joints"], pose=np.array(truth["pose"]), part=np.zeros((1, 64, 64))), "pose"
    )
    shown = run.data.hints.pictures(1, torch.tensor([2, 4]))
    painted = torch.from_numpy(drawn[[2, 4]]).permute(0, 3, 1, 2) / 255
    assert (shown - painted).abs().mean() < 0.03 < (shown - painted.flip(0)).abs().mean()

    noisy = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    tokens, pooled = (part.repeat_interleave(4, 0) for part in run.data.clips.text(torch.tensor([1])))
    added = {"text_embeds": pooled, "time_ids": run.data.clips.time_ids(1).repeat(4, 1)}
    pictures = run.data.hints.pictures(1, torch.arange(1, 5))
    down, middle = controlnet.load_controlnet("toon")(
        noisy, torch.tensor(700), tokens, controlnet_cond=pictures, return_dict=False
    )
    expected = toon.unet(
        noisy,
        torch.tensor(700),
        tokens,
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    assert (predicted(run, [0, 1, 2, 3]) - expected).abs().max() < 1e-5


def test_draws_follow_the_share_the_keyframes_and_the_seed(trainer):
    run = trainer(hinted_share=0.6, keyframes="100%,0,50%")
    clip, seen = Clip(1, 1, torch.zeros(4, 4, 8, 8)), []
    for seed in range(200):
        steered = run.data.hints.draw([clip], torch.arange(4), torch.Generator().manual_seed(seed))
        if steered is not None:
            if len(seen) < 20:
                again = run.data.hints.draw([clip], torch.arange(4), torch.Generator().manual_seed(seed))
                assert torch.equal(steered.rows, again.rows) and torch.equal(steered.pictures, again.pictures)
            assert steered.pictures.shape == (1, len(steered.rows), 3, 64, 64)
            seen.append(tuple(steered.rows.tolist()))
    assert 0.5 < len(seen) / 200 < 0.7
    assert 0.4 < seen.count((0, 2, 3)) / len(seen) < 0.75  # the config's, and now and then by chance
    assert {len(rows) for rows in seen} == {1, 2, 3} and all(rows == tuple(sorted(set(rows))) for rows in seen)


def test_a_share_of_zero_trains_as_without_hints(trainer):
    losses = []
    keyframes = TrainConfig.model_fields["keyframes"].default
    for fields in ({"hinted_share": 0}, {"controlnet": None, "hints": None, "keyframes": keyframes}):
        run = trainer(**fields)
        losses.append([run.train_step() for _ in range(3)])
        run.unet.detach()
    assert losses[0] == losses[1]


def test_clips_of_noise_alone_show_nothing_of_themselves(trainer):
    run = trainer(pure_noise_share=1.0, clips_per_step=2, hinted_share=0)
    seen = []
    run.unet.register_forward_pre_hook(lambda module, args: seen.append(args))
    shown = []
    for fill in (-1.0, 1.0):  # other clips, the same seed
        for latents in run.data.clips.latents:
            latents.fill_(fill)
        run.step = 5
        shown.append(run.train_step())
    assert torch.allclose(seen[0][0], seen[1][0], atol=1e-5) and set(seen[0][1].tolist()) == {999}
    assert shown[0] != shown[1]


def test_a_run_learns_from_hints_resumes_and_says_so(tmp_path, clips_folder, hints_folder):
    fields = {"clips": clips_folder, "controlnet": "toon", "hints": hints_folder, "hinted_share": 1.0}
    fields |= {"keyframes": "0, 100%", "validation_clips": 1, "validation_levels": [0.8], "validation_steps": 2}
    config = write_config(tmp_path, **fields, output=tmp_path / "run", steps=4, learning_rate=1e-3)
    words = ["--checkpoint-steps", "2", "--keep-checkpoints", "9"]
    assert cli.main([str(config), *words]) == 0
    first = events(tmp_path / "run")
    assert first[0]["validation_hinted"] != first[0]["validation"]
    assert first[-1]["validation_hinted"] != first[0]["validation_hinted"]
    said = load_adapter(tmp_path / "run" / "adapter.safetensors").metadata["trained_hints"]
    assert said == "toon in 100% of batches, keyframes 0, 100% or random"

    (tmp_path / "run" / "adapter.safetensors").unlink()
    for late in ("checkpoint-00000003.safetensors", "checkpoint-00000004.safetensors"):
        (tmp_path / "run" / late).unlink(missing_ok=True)
    assert cli.main([str(config), *words, "--resume", "latest"]) == 0
    again = [event for event in events(tmp_path / "run") if "loss" in event][4:]
    assert [event["loss"] for event in again] == [event["loss"] for event in first if event["step"] > 2]


@pytest.mark.parametrize(
    "spoil, fields, message",
    [
        (lambda folder: (folder / "00001.mp4").unlink(), {}, "has no video for 00001.mp4; give each clip one"),
        (
            lambda folder: paint_again(folder, "--frames", "4"),
            {"hinted_share": 1},
            "has 4 frames, its clip 5; make it again",
        ),
        (
            lambda folder: paint_again(folder, "--scale", "1"),
            {"hinted_share": 1, "resolution": None},
            "64 x 64 at the run's resolution, its clip 128 x 128",
        ),
        (
            lambda folder: (folder / "00001.mp4").write_bytes(b"no video"),
            {"hinted_share": 1},
            "00001.mp4 cannot be read as a video",
        ),
        (lambda folder: None, {"keyframes": "0,200%"}, "keyframes, in clips of 4 frames"),
        (lambda folder: None, {"keyframes": ""}, "keyframes is empty"),
        (lambda folder: None, {"controlnet": None}, "one goes with the other"),
        (
            lambda folder: None,
            {"controlnet": None, "hints": None, "hinted_share": 0.7},
            "hinted_share, keyframes: of no use without a ControlNet",
        ),
        (
            lambda folder: None,
            {"keyframes": "0,2,50%", "frames": [3, 5], "validation_clips": 1},
            "keyframes, in clips of 4 frames: positions 2 and 50%",
        ),
        (lambda folder: None, {"controlnet": "nowhere"}, "nowhere is no diffusers folder"),
        (lambda folder: None, {"temporal_dropout": 0.2}, "does not go with temporal_dropout"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(tmp_path, clips_folder, hints_folder, capsys, spoil, fields, message):
    hints = tmp_path / "hints"
    shutil.copytree(hints_folder, hints)
    spoil(hints)
    given = {"clips": clips_folder, "output": tmp_path / "run", "controlnet": "toon", "hints": hints}
    given |= {"keyframes": "0,100%", "clips_per_step": 3, "steps": 1}
    config = write_config(tmp_path, **{**given, **fields})
    assert cli.main([str(config)]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def paint_again(folder, *words: str) -> None:
    shutil.rmtree(folder)
    defaults = {"--count": "3", "--frames": "5", "--size": "64"} | dict(zip(words[::2], words[1::2], strict=True))
    paint_clips.main([str(folder), "--hint", "pose", *(word for pair in defaults.items() for word in pair)])


def test_a_controlnet_for_another_base_is_refused(tmp_path, toon, clips_folder, hints_folder):
    from diffusers import ControlNetModel

    from sdxl_anime_video.demo.controlnet import CONFIG

    ControlNetModel(**{**CONFIG, "block_out_channels": (64, 64), "attention_head_dim": 1}).save_pretrained(tmp_path)
    config = TrainConfig(
        clips=clips_folder, output=tmp_path, controlnet=str(tmp_path), hints=hints_folder, frames=[5], steps=1
    )
    with pytest.raises(ConfigError, match=r"another kind of base \(block_out_channels \[64, 64\], not \[128, 128\]\)"):
        require_hints(config, toon)


def test_a_folder_of_diffusers_is_read(tmp_path, toon):
    controlnet.load_controlnet("toon").save_pretrained(tmp_path)
    one, other = controlnet.load_controlnet("toon"), controlnet.load_controlnet(str(tmp_path))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert controlnet.controlnet_config(str(tmp_path))["cross_attention_dim"] == toon.unet.config["cross_attention_dim"]


@pytest.mark.parametrize(
    "clips, hints, message",
    [
        ("clips", "file.mp4", "file.mp4 is no folder; name one with a video of hints for each clip"),
        ("clips", "clips", "lies in the folder of clips"),
        ("clips", "clips/below", "lies in the folder of clips"),
        ("clips", "twice", r"00000\.gif and 00000\.mp4 in .*twice have one name"),
        ("clips", "shorter", r"00000\.gif has 3 frames, its clip 5"),
        ("cache", "hints", "what prepare made, which keeps no names of clips; give as clips a folder of short videos"),
    ],
)
def test_folders_that_do_not_go_together_are_refused(
    tmp_path, monkeypatch, toon, clips_folder, hints_folder, clips, hints, message
):
    monkeypatch.chdir(tmp_path)
    for name, source in (("clips", clips_folder), ("clips/below", hints_folder), ("hints", hints_folder)):
        shutil.copytree(source, name)
    for name in ("twice", "shorter"):
        shutil.copytree(hints_folder, name)
    shutil.copy("twice/00000.mp4", "twice/00000.gif")
    Path("shorter/00000.mp4").unlink()
    pictures = [Image.new("RGB", (128, 128), colour) for colour in ("red", "green", "blue")]
    pictures[0].save("shorter/00000.gif", save_all=True, append_images=pictures[1:], duration=80)
    Path("file.mp4").touch()
    Path("cache").mkdir()
    Path("cache", IDENTITY).write_text("{}")
    if hints != "clips/below":
        shutil.rmtree("clips/below")
    with pytest.raises(ValueError, match=message):
        require_hints(config_with("toon", Path(hints), Path(clips)), toon)


def config_with(controlnet: str, hints: Path, clips: Path) -> TrainConfig:
    return TrainConfig(
        clips=clips, output=Path("run"), controlnet=controlnet, hints=hints, **{**SMALL, "keyframes": "0,-1"}
    )


def test_a_video_of_hints_that_is_spoilt_in_the_run_is_named(trainer, clips_folder, hints_folder, tmp_path):
    hints = tmp_path / "hints"
    shutil.copytree(hints_folder, hints)
    run = trainer(hints=hints)
    paint_again(hints, "--frames", "4")
    with pytest.raises(DataError, match=r"00001\.mp4 has 4 frames, its clip 5"):
        run.data.hints.pictures(1, torch.tensor([4]))
    (hints / "00001.mp4").unlink()
    with pytest.raises(DataError, match=r"hints: .*00001\.mp4 does not exist"):
        run.data.hints.pictures(1, torch.tensor([0]))


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", b'{"a": ', "config.json is damaged"),
        ("config.json", b"[1]", "config.json is damaged"),
        ("config.json", {"_class_name": "ControlNetUnionModel"}, "holds a ControlNetUnionModel, no ControlNetModel"),
        ("config.json", {"conditioning_channels": 4}, r"conditioning_channels 4, not 3"),
        (
            "config.json",
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 77},
            "projection_class_embeddings_input_dim 77, not 1664",
        ),
        (WEIGHTS, None, f"no file named {WEIGHTS}"),
        (WEIGHTS, b"no weights", "cannot be read"),
        (WEIGHTS, {}, "of its weights, such as .*; download it again"),
        (WEIGHTS, {"mid_block.resnets.0.conv1.bias": torch.full([128], torch.nan)}, "holds values that are no numbers"),
    ],
)
def test_a_damaged_controlnet_is_named(tmp_path, toon, file, content, message):
    controlnet.load_controlnet("toon").save_pretrained(tmp_path)
    path = tmp_path / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif file == WEIGHTS:
        whole = load_file(path)
        without = {name: value for name, value in whole.items() if not name.startswith("mid_block")}
        save_file({**whole, **content} if content else without, path)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(ConfigError, match=message):
        controlnet.require_fit(str(tmp_path), toon.unet.config)
        controlnet.load_controlnet(str(tmp_path))


def test_keyframes_are_read_as_yaml_has_them(hints_folder, clips_folder):
    def read(keyframes) -> str:
        values = {"controlnet": "toon", "hints": hints_folder, "keyframes": keyframes}
        return TrainConfig(clips=clips_folder, output=Path("run"), frames=[4], **values).keyframes

    assert [read(given) for given in (0, [0, "50%", -1], "all")] == ["0", "0,50%,-1", "all"]


def test_phases_keep_the_controlnet_and_show_hints_in_their_size(trainer, toon, clips_folder):
    run = trainer(hinted_share=1.0, stages=[{"until": 0.5, "frames": 3, "resolution": 128}])
    network = run.loss.controlnet
    run.enter(run.config.at(0), load_clips(clips_folder, toon, 128))
    assert run.data.hints.pictures(1, torch.tensor([0, 2])).shape == (2, 3, 128, 128)
    run.train_step()
    run.enter(run.config.at(0.6), load_clips(clips_folder, toon, 64))
    assert run.loss.controlnet is network
    run.train_step()
