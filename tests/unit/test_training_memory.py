"""Counted memory against real steps, what fits, and what is said where it does not."""

import mmap
import resource

import pytest
import torch

import tiny
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run import dry_run
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.run.memory import Live, estimate, savings
from sdxl_anime_video.training.step.batch import Batch, HintedFrames
from sdxl_anime_video.training.step.controlnet import load_controlnet
from sdxl_anime_video.training.step.layers import create
from sdxl_anime_video.training.step.loss import Loss

SMALL = tiny.TinyConfig(widths=(64, 128), depth=(0, 1))


def config(**fields) -> TrainConfig:
    return TrainConfig(clips="in", output="out", device="cpu", **fields)


def real_peak(unet, settings: TrainConfig, frames: int, side: int) -> int:
    """Bytes at the peak of a real forward and backward pass, beside weights and gradients."""
    adapter = TemporalAdapter.create(unet_sites(unet.requires_grad_(False), TemporalAdapter))
    unet.train(settings.gradient_checkpointing)
    (unet.enable_gradient_checkpointing if settings.gradient_checkpointing else unet.disable_gradient_checkpointing)()
    gradients = []
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    added = {"text_embeds": torch.zeros(frames, 64), "time_ids": torch.zeros(frames, 6)}
    text = torch.zeros(frames, 77, 64)
    with TemporalUNet(unet, adapter) as model, Live((*unet.parameters(), *adapter.parameters(), *gradients)) as live:
        latents = torch.randn(frames, 4, side, side)
        time = torch.zeros(frames, dtype=torch.long)
        out = model(latents, time, encoder_hidden_states=text, added_cond_kwargs=added, num_frames=frames)
        (out.sample.float() - latents).square().mean().backward()
    return live.peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_what_a_real_step_takes(checkpointing):
    settings, unet = config(gradient_checkpointing=checkpointing), tiny.diffusers_unet(SMALL)
    memory = estimate(unet.config, settings, half=False, gpu=False)
    for frames, side in ((3, 24), (5, 12)):  # none of the sizes that it was made from
        assert memory.step(1, frames, side, side) == pytest.approx(real_peak(unet, settings, frames, side), rel=0.05)
    assert memory.base_parameters == sum(p.numel() for p in unet.parameters())
    assert memory.parts["gradients"] == 4 * memory.adapter_parameters
    assert memory.parts["base"] == 4 * memory.base_parameters


def test_a_motion_module_in_half_is_counted():
    settings, unet = config(kind="animatediff"), tiny.diffusers_unet(SMALL)
    memory = estimate(unet.config, settings, half=True, gpu=False)
    assert memory.adapter_parameters == sum(p.numel() for p in create(settings, unet).parameters())
    assert memory.parts["base"] == 2 * memory.base_parameters
    assert memory.step(1, 8, 16, 16) > 0


def test_settings_that_save_are_named_with_what_they_save():
    settings, unet = config(ema=0.9, resolution=512, clips_per_step=2, frames=[8]), tiny.diffusers_unet(SMALL)
    size = (2, 8, 64, 64)
    plain = estimate(unet.config, settings, half=False, gpu=True)
    said = savings(plain, size)
    assert said[0].startswith("gradient_checkpointing: true (about ")
    assert [words.split(" ")[0] for words in said[1:4]] == ["clips_per_step:", "resolution:", "frames:"]
    saved = float(next(words for words in said if words.startswith("clips_per_step: 1")).split("about ")[1].split()[0])
    assert saved == pytest.approx((plain.total(*size) - plain.total(1, 8, 64, 64)) / 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("words", "size"),
    [(["--memory", "20GB"], 20e9), (["--memory=1.5GiB"], 1.5 * 1024**3), (["--memory", "512 MB"], 512e6), ([], None)],
)
def test_sizes_of_memory_are_read(words, size):
    words = [*words, "--steps", "3"]
    assert dry_run.take_memory(words) == size
    assert words == ["--steps", "3"]


@pytest.mark.parametrize("text", ["20", "much", "-1GB", ""])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ConfigError, match="is no size; write it like 20GB"):
        dry_run.take_memory(["--memory", text])


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    assert paint_clips.main([str(folder), "--count", "2", "--frames", "8", "--size", "128"]) == 0
    return folder


def options(painted, tmp_path, *more: str) -> list[str]:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"clips: {painted}\noutput: {tmp_path / 'run'}\nresolution: 128\nframes: [8]\ndevice: cpu\nthreads: 1\n"
    )
    return [str(path), *more]


def test_a_dry_run_counts_and_times_and_leaves_nothing(painted, tmp_path, capsys):
    words = options(painted, tmp_path, "--dry-run", "--memory", "1GB", "--clips-per-step", "1", "--precision", "fp32")
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "base: 8.0 M parameters, frozen, fp32" in said
    assert "memory, estimated: " in said and " for 1 x 8 frames of 128 x 128: base 0.0321 GB, adapter " in said
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    step = float(lines["memory, estimated"].split(", step ")[1].removesuffix(" GB"))
    assert float(lines["memory, measured"].split()[0]) == pytest.approx(step, rel=0.25)
    assert float(lines["speed"].split()[0]) > 0 and "10000 steps take " in said
    assert "largest that fits: resolution " in said
    assert not (tmp_path / "run").exists()


def test_where_memory_runs_out_three_settings_are_named(painted, tmp_path, capsys):
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + int(2e9), limit[1]))
    try:
        status = cli.main(options(painted, tmp_path, "--clips-per-step", "64", "--precision", "fp32"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 1
    assert error.startswith("error: train: out of memory at step 0; by estimate 64 x 8 frames with latents of 16 x 16")
    assert (
        "gradient_checkpointing: true (about " in error and "clips_per_step: 32 (and accumulation: 2) (about" in error
    )
    assert error.count(" less)") == 3


def test_a_controlnet_counts_with_its_weights_and_its_output():
    base, network = load_base("toon"), load_controlnet("toon")
    settings, (frames, side) = config(controlnet="toon", hints="hints", precision="fp32"), (6, 16)
    memory = estimate(base.unet.config, settings, half=False, gpu=False)
    assert memory.parts["ControlNet"] == 4 * sum(p.numel() for p in network.parameters())
    layers = TemporalAdapter.create(unet_sites(base.unet, TemporalAdapter))
    for parameter in layers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    known = [*base.unet.parameters(), *network.parameters(), *layers.parameters()]
    known += [parameter.grad for parameter in layers.parameters()]
    with TemporalUNet(base.unet, layers) as unet, Live(tuple(known)) as live:
        latents = torch.randn(1, frames, 4, side, side)
        pictures = torch.zeros(1, frames, 3, side * base.factor, side * base.factor)
        text, pooled = torch.zeros(1, 77, base.unet.config.cross_attention_dim), base.encode_text([""])[1]
        hinted = HintedFrames(torch.arange(frames), pictures)
        batch = Batch([0], latents, latents, torch.tensor([500]), (text, pooled), torch.zeros(1, 6), hinted=hinted)
        Loss(settings, base, unet, torch.device("cpu"), network)(batch).sum().backward()
    assert memory.step(1, frames, side, side) == pytest.approx(live.peak, rel=0.05)
