"""What changes in a run: noise and sizes by phase, frames that are left out, and what the adapter says of it."""

import dataclasses

import pytest
import torch

from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run.progress import Bars
from sdxl_anime_video.training.run.run import Run
from sdxl_anime_video.training.run.trainer import Trainer
from sdxl_anime_video.training.step import optimizers
from sdxl_anime_video.training.step.batch import draw_noise, kept_frames


def seen_frames(run: Trainer, steps: int) -> list[list[int]]:
    """Positions that the adapter was given in each step."""
    given = []
    forward = run.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["positions"].tolist()), with_kwargs=True
    )
    for _ in range(steps):
        run.train_step()
    forward.remove()
    return given


def test_frames_left_out_keep_the_places_of_the_others():
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(200):
        kept = kept_frames(12, 0.25, generator).tolist()
        assert kept == sorted(set(kept)) and 2 <= len(kept) <= 12 and set(kept) <= set(range(12))
        counts.append(len(kept))
    assert sum(counts) / len(counts) == pytest.approx(9, abs=0.4)
    assert len(kept_frames(12, 0.99, generator)) == 2
    assert kept_frames(12, 0.0, generator).tolist() == list(range(12))


def test_dropped_frames_reach_neither_the_model_nor_other_draws(trainer):
    whole = seen_frames(trainer(max_frames=8), 4)
    holes = seen_frames(trainer(max_frames=8, temporal_dropout=0.4), 4)
    assert all(len(positions) == 4 for positions in whole)
    assert any(len(positions) < 4 for positions in holes)
    assert all(set(some) <= set(all_of_them) for some, all_of_them in zip(holes, whole, strict=True))


def test_noise_follows_the_curriculum_and_ends_as_clips_are_sampled(trainer):
    config = trainer(
        noise_curriculum=[
            {"until": 0.2, "correlation": 0.9},
            {"until": 0.6, "correlation": 0.6, "mode": "progressive"},
        ],
        noise_correlation=0.3,
        noise_probability=0.5,
    ).config

    def correlation(progress: float) -> float:
        phase = config.noise_at(progress).model_copy(update={"probability": 1.0})
        noise = draw_noise(torch.Size((1, 2, 4, 128, 128)), torch.Generator().manual_seed(1), phase)[0].flatten(1)
        return float(torch.corrcoef(noise)[0, 1])

    assert [correlation(p) for p in (0, 0.3, 0.6, 1)] == pytest.approx([0.9, 0.6, 0.3, 0.3], abs=0.02)
    assert config.noise_at(0.3).mode == "progressive"
    assert [config.noise_at(p).probability for p in (0.3, 0.7)] == [1.0, 0.5]
    assert config.describe_noise() == "shared 0.3 in 50% of clips, else independent"


def test_a_step_takes_the_noise_of_its_phase(trainer):
    noises = {"noise_curriculum": [{"until": 0.5, "correlation": 1}], "noise_correlation": 0.2}
    run = trainer(steps=4, pure_noise_share=1, **noises)  # so the UNet is given nothing but noise
    seen = []
    run.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(1)))
    for _ in range(4):
        run.train_step()
    found = [torch.corrcoef(noise)[0, 1].item() for noise in seen]
    assert found[:2] == pytest.approx([1, 1], abs=1e-3) and found[2:] == pytest.approx([0.2, 0.2], abs=0.2)


def test_a_phase_changes_size_batch_and_rate_while_the_optimizer_goes_on(trainer):
    phase = {"until": 0.5, "resolution": 48, "clips_per_step": 2, "learning_rate": 1e-4}
    run = trainer(steps=4, learning_rate=1e-3, stages=[phase], validation_clips=1, checkpoint_minutes=None)
    shapes, counted, events = [], [], []
    run.unet.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    steps = run.optimizer.register_step_post_hook(
        lambda optimizer, *_: counted.append(next(iter(optimizer.state.values()))["step"].item())
    )
    Run(run, Bars(run.config, quiet=True), events.append).to_the_end()
    steps.remove()
    trained = [shape for shape in shapes if shape[0] in (4, 8)]
    assert (8, 4, 6, 6) in trained and (4, 4, 8, 8) in trained
    assert counted == [1, 2, 3, 4]  # the moments are those of one run
    rates = [event["lr"] for event in events if "loss" in event]
    assert rates[0] == pytest.approx(1e-4) and rates[2] == pytest.approx(0.5e-3)  # cosine of half the run
    assert run.data.clips.latents[0].shape[-1] == 8


def test_a_base_that_predicts_v_trains(trainer, toon):
    run = trainer(dataclasses.replace(toon, prediction="v_prediction"), noise_correlation=0.5, temporal_dropout=0.3)
    assert all(0 < run.train_step() < 100 for _ in range(2))


def test_8_bit_moments_want_a_gpu_and_their_library(trainer):
    trainer()
    with pytest.raises(ConfigError, match="adamw8bit works on a GPU only; take adamw"):
        trainer(optimizer="adamw8bit")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        config = TrainConfig(clips="in", output="out", optimizer="adamw8bit")
        with pytest.raises(ConfigError, match=r"needs bitsandbytes .*pip install bitsandbytes"):
            optimizers.make_optimizer(torch.nn.Linear(1, 1), config, torch.device("cuda"))


def test_validation_is_at_the_levels_asked_for(trainer):
    run = trainer(validation_clips=1, validation_levels=[0.2, 0.6])
    found = run.validate()
    assert set(found) == {"validation", "validation_0.2", "validation_0.6"}
    assert found == run.validate()
    assert found["validation_0.2"] > found["validation_0.6"]  # epsilon is hardest where there is least of it
