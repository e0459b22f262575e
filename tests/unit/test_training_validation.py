"""Validation: which clips are kept out, and that their loss depends on nothing but them."""

import pytest
import torch

from sdxl_anime_video.training.clips.source import Clips
from sdxl_anime_video.training.step.data import hold_out


def test_every_bucket_gives_its_share_and_its_first_clips():
    assert hold_out([[3, 4, 7, 9]], 3) == [3, 4, 7]
    many = [list(range(60)), list(range(60, 90)), list(range(90, 100)), [100]]
    chosen = hold_out(many, 10)
    assert [sum(i in bucket for i in chosen) for bucket in many] == [6, 3, 1, 0]
    assert all(i - bucket[0] < 6 for i in chosen for bucket in many if i in bucket)
    assert hold_out(many, 12)[:10] == chosen
    assert sorted(hold_out(many, 1000)) == list(range(101))
    assert hold_out(many, 0) == []


def clips_of(sizes: list[tuple[int, int, int]], toon) -> Clips:
    """Random latents of (frames, height, width), all without a caption."""
    generator = torch.Generator().manual_seed(3)
    latents = [torch.randn(frames, 4, h, w, generator=generator).half() for frames, h, w in sizes]
    tokens, pooled = toon.encode_text([""])
    return Clips(latents, [0] * len(sizes), tokens, pooled, [f"{i}" for i in range(len(sizes))], 12)


@pytest.fixture
def trainer(trainer):
    settings = {"frames": [3], "validation_levels": [0.5, 0.9], "steps": 4}
    return lambda clips, **fields: trainer(loaded=clips, **settings, **fields)


def test_the_loss_is_the_mean_over_clips_of_every_size(trainer, toon):
    clips = clips_of([(3, 4, 8), (3, 8, 4), (3, 4, 8), (3, 8, 4), (4, 4, 8)], toon)
    run = trainer(clips, validation_clips=3)
    assert {clips.sizes[i] for i in run.data.held_out} == {(4, 8), (8, 4)} and len(run.data.held_out) == 3
    assert not {i for bucket in run.data.buckets for i in bucket} & set(run.data.held_out)
    found = run.validate()
    assert found == run.validate()
    (lone,) = (i for i in run.data.held_out if clips.sizes[i] == (8, 4))
    pair = [i for i in run.data.held_out if i != lone]
    parts = {}
    for chosen in ([lone], pair):
        run.data.held_out = chosen
        parts[len(chosen)] = run.validate()
    # alone the tall clip's noise is that of the first size, so only the pair's loss is the very same
    others = 3 * found["validation_0.5"] - 2 * parts[2]["validation_0.5"]
    assert others == pytest.approx(parts[1]["validation_0.5"], rel=0.2)


def test_a_resumed_run_validates_as_the_uninterrupted_one(trainer, toon):
    clips = clips_of([(3, 4, 8), (3, 8, 4), (3, 4, 8), (3, 8, 4)], toon)
    run = trainer(clips, validation_clips=2)
    run.train_step()
    run.checkpoint()
    expected = run.validate()
    held_out = run.data.held_out
    again = trainer(clips, validation_clips=2, resume="latest")
    assert (again.data.held_out, again.validate()) == (held_out, expected)
