"""Training in fp16: the loss is scaled, and a gradient that was too large for fp16 costs no step."""

import json

import pytest
import torch

from sdxl_anime_video.commands.precision import arithmetic, vae_arithmetic
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.training.clips.source import Clips
from sdxl_anime_video.training.run.progress import Bars
from sdxl_anime_video.training.run.run import Run
from sdxl_anime_video.training.run.trainer import Trainer


@pytest.fixture
def trainer(trainer):
    """Trainers on two clips of noise; each has a base of its own, which it converts."""

    def make(precision="fp16", **fields) -> Trainer:
        toon = load_base("toon")
        latents = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).half()
        clips = Clips(list(latents), [0, 0], *toon.encode_text([""]), ["a", "b"], 12)
        settings = {"resolution": None, "frames": [3], "steps": 4, "learning_rate": 1e-3, **fields}
        return trainer(toon, clips, precision=precision, **settings)

    return make


def with_scale(run: Trainer, scale: float) -> Trainer:
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": scale})
    return run


def test_the_base_is_in_fp16_the_adapter_in_fp32_and_the_losses_are_near_those_of_fp32(trainer):
    exact, run = trainer("fp32"), trainer()
    expected = [exact.train_step() for _ in range(2)]
    assert [run.train_step() for _ in range(2)] == pytest.approx(expected, rel=0.01)
    assert {p.dtype for p in run.base.unet.parameters()} == {torch.float16}
    assert {p.dtype for p in run.layers.parameters()} == {torch.float32}
    assert not exact.scaler.is_enabled() and run.scaler.get_scale() == 65536


def test_a_gradient_that_overflows_is_computed_again_and_the_step_counts_once(trainer, tmp_path):
    run, plain, events = with_scale(trainer(steps=1), 2.0**30), with_scale(trainer(steps=1), 2.0**12), []
    plain.train_step()
    Run(run, Bars(run.config, quiet=True), events.append).to_the_end()
    (event,) = events
    assert event["step"] == 1 and event["loss_scale"] < 2.0**30
    assert event["loss_scale"] == run.scaler.get_scale()
    for name, value in run.layers.state_dict().items():  # AdamW's first step has the size of the rate everywhere
        torch.testing.assert_close(value, plain.layers.state_dict()[name], rtol=0, atol=2.1e-3)
    saved = json.loads(json.dumps(run.scaler.state_dict()))
    again = trainer(steps=1, resume="latest")
    assert again.scaler.state_dict() == saved and again.step == 1


def test_a_resumed_run_in_fp16_is_the_uninterrupted_one(trainer):
    run = with_scale(trainer(), 2.0**30)
    run.train_step()
    run.checkpoint()
    again = trainer(resume="latest")
    assert again.scaler.get_scale() == run.scaler.get_scale()
    assert again.train_step() == run.train_step()
    assert all(torch.equal(value, again.layers.state_dict()[name]) for name, value in run.layers.state_dict().items())


def test_a_loss_that_is_no_number_stops_and_no_scale_is_tried(trainer):
    run = trainer()
    before = run.scaler.get_scale()
    with torch.no_grad():
        run.layers.site(next(iter(run.layers.config.sites))).proj.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan .* at step 0, clips"):
        run.train_step()
    assert run.scaler.get_scale() == before


def test_gradients_that_overflow_at_any_scale_stop(trainer):
    run = with_scale(trainer(), 8.0)
    run.layers.site(next(iter(run.layers.config.sites))).proj.bias.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(FloatingPointError, match=r"gradient's norm (inf|nan)"):
        run.train_step()
    assert run.step == 0


def test_auto_is_fp16_on_a_gpu_without_bf16_but_never_for_a_vae(monkeypatch):
    for capability, expected in (((7, 5), torch.float16), ((8, 6), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert arithmetic("cuda", "auto") == expected
        assert vae_arithmetic("cuda", "auto") == (torch.float32 if expected == torch.float16 else expected)
    assert arithmetic("cpu", "auto") in (torch.float32, torch.bfloat16)
    assert vae_arithmetic("cuda", "fp16") == torch.float32
