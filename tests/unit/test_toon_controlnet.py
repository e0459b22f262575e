"""The toon ControlNet's data and training, in a few steps."""

import numpy as np
import pytest
import torch

from sdxl_anime_video.benchmarks.judging import control as evaluate_control
from sdxl_anime_video.benchmarks.making.controlnet import ControlNetTraining, as_hints, controlled, new_controlnet
from sdxl_anime_video.benchmarks.making.data import painted_frames
from sdxl_anime_video.benchmarks.making.loop import train
from sdxl_anime_video.benchmarks.making.train import read_options
from sdxl_anime_video.demo.hints import KINDS, hint_pictures
from sdxl_anime_video.demo.judge import read_limbs
from sdxl_anime_video.demo.model import load_toon_diffusers, size_ids
from sdxl_anime_video.demo.painter import HELD_OUT, LIMB_COLOURS, paint_clip

CAPTION = "girl, blue hair, red dress, sunset, run"


@pytest.fixture(scope="module")
def clip():
    return paint_clip(CAPTION, 4, 128, seed=3)


@pytest.fixture(scope="module")
def base():
    unet, _, text = load_toon_diffusers()
    return unet, text


def test_hints_lie_on_the_picture(clip):
    skeletons = hint_pictures(clip, "pose")
    for name, colour in LIMB_COLOURS.items():
        at = np.floor(clip.joint(name)).astype(int)
        seen = [skeletons[i, y, x].tolist() for i, (x, y) in enumerate(at)]
        assert list(colour) in seen  # far limbs may be behind near ones
    assert np.array_equal(hint_pictures(clip, "outline")[..., 1], clip.outline)
    depth = hint_pictures(clip, "depth")[..., 0]
    assert depth[clip.character].min() > depth[~clip.character].max()
    assert all(hint_pictures(clip, kind).shape == clip.frames.shape for kind in KINDS)
    with pytest.raises(ValueError, match="hint 'edges' does not exist; choose one of pose, outline, depth"):
        hint_pictures(clip, "edges")


def test_training_hints_belong_to_their_frames(tmp_path):
    frames, hints, captions = painted_frames(6, 3, tmp_path, size=32, hint="outline")
    plain, _, same = painted_frames(6, 3, tmp_path, size=32)
    assert np.array_equal(frames, plain) and captions == same and hints.shape == frames.shape
    assert not set(captions) & set(HELD_OUT)
    dark = frames[hints[..., 0] == 255].mean(axis=-1)  # whole outline pixels have the outline's own colour
    assert len(dark) and dark.max() < 40


def test_a_new_network_is_silent(base):
    unet, text = base
    x, t, hints = torch.randn(2, 4, 16, 16), torch.tensor([700, 30]), torch.rand(2, 3, 128, 128)
    context, pooled = text([CAPTION, ""])
    added = {"text_embeds": pooled, "time_ids": size_ids(2)}
    with torch.no_grad():
        network = new_controlnet(*base, hints)
        silent = controlled(unet, network, hints)(x, t, context, added).sample
        assert torch.equal(silent, unet(x, t, context, added_cond_kwargs=added).sample)
        torch.nn.init.normal_(network.controlnet_mid_block.weight)
        assert not torch.equal(controlled(unet, network, hints)(x, t, context, added).sample, silent)
    assert 2 * sum(value.numel() for value in network.parameters()) < 8e6  # bytes in fp16


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_sees_its_hints(base, clip, kind):
    """Beside noise's features, whose deviation is about 0.6, other poses differ enough to learn from."""
    hints = as_hints(hint_pictures(clip, kind))
    with torch.no_grad():
        seen = new_controlnet(*base, hints[:2]).controlnet_cond_embedding(hints[2:])
    assert 0.1 < seen.std(0).mean() < 1


def test_training_resumes(tmp_path):
    options, shown = read_options(["controlnet", "--frames", "6", "--batch", "2", "--cache", str(tmp_path)]), []
    for steps in (2, 3):
        training = ControlNetTraining(options)
        assert train(training, tmp_path / "run.ckpt", 1, steps, None, shown.append) == steps
    assert shown == [2, 3]  # the second run has gone on from the first
    assert all(zero.weight.abs().max() > 0 for zero in training.module.controlnet_down_blocks)
    assert all(not value.requires_grad for frozen in (training.unet, training.text) for value in frozen.parameters())


def test_pose_is_read_back(clip):
    """On painted frames, where each limb is seen: gloves at their joint, boots at their middle; a move is told."""
    waving = paint_clip("cat, blonde hair, white coat, meadow, wave", 8, 128, seed=1)
    read = read_limbs(waving.frames)
    for name in LIMB_COLOURS:
        off = np.linalg.norm(read[name] - (waving.joint(name) - 0.5), axis=1)
        assert off.max() < (1.5 if name.endswith("hand") else 3)
    assert np.nanmax(evaluate_control.pose_errors(clip.frames, clip)) == 0
    found = evaluate_control.scores(np.roll(clip.frames, 3, axis=2), clip, [0])
    assert found["pose_error"] == pytest.approx(3, abs=0.2)
    assert found["at_keyframes"] == pytest.approx(found["between"], abs=0.2)
    nothing = evaluate_control.scores(np.zeros_like(clip.frames), clip, [0])
    assert nothing["pose_error"] == evaluate_control.MISS and nothing["limbs_seen"] == 0


def test_background_drift_is_the_suns(clip):
    still = np.repeat(clip.frames[:1], 4, 0)
    moved = np.stack([np.roll(frame, shift, axis=0) for frame, shift in zip(still, (0, 2, 0, 2), strict=True)])
    assert evaluate_control.background_drift(still, "sunset") < 0.01
    assert evaluate_control.background_drift(moved, "sunset") == pytest.approx(1, abs=0.15)


def test_arms():
    assert evaluate_control.Arm("no hints", 16).curve is None
    assert evaluate_control.Arm("all", 3).curve.tolist() == [1, 1, 1]
    sparse = evaluate_control.Arm("0,-1 linear 2", 4)
    assert sparse.curve.tolist() == [1, 0.5, 0.5, 1]
    assert (sparse.rows, sparse.pictures) == ([0, 3], [0, 0, 1, 1])  # hints of keyframes alone
    for text, message in (("0 linear", "write 'no hints', or keyframes"), ("9", "position 9 is outside")):
        with pytest.raises(ValueError, match=f"arm '{text}': {message}"):
            evaluate_control.Arm(text, 4)
    means = {"no hints": {"pose_error": 10.0}, "all": {"pose_error": 2.0}, "0": {"pose_error": 4.0}}
    evaluate_control.gap_closed(means)
    assert [of["gap_closed"] for of in means.values()] == [0, 1, 0.75]


def test_a_missing_file_says_what_to_do(tmp_path, capsys):
    assert evaluate_control.main(["--controlnet", str(tmp_path / "none.safetensors")]) == 1
    said = capsys.readouterr().err
    assert "none.safetensors is missing" in said and "making.train controlnet" in said and said.count("\n") == 1
