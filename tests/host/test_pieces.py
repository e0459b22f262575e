"""What holds for segments and for context windows: one piece is the plain run, and conditioning follows its frames."""

from functools import partial

import pytest
import torch

from clip_sampling import (
    ENTRY_POINTS,
    NEGATIVE,
    POSITIVE,
    adapted,
    chained,
    close,
    controlled,
    empty,
    ksample,
    model,
    pictures,
    rows_of,
    windowed,
)
from sdxl_anime_video.temporal.clip.segments import SCHEDULES

LENGTH = 7  # frames of a clip
CUTS = {
    "overlap": chained,
    "last_frame": partial(chained, carry="last_frame"),
    **{schedule: partial(windowed, overlap=2, schedule=schedule) for schedule in SCHEDULES},
}


@pytest.mark.parametrize("run", ENTRY_POINTS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_clip_of_one_piece_equals_the_plain_run(run, cut):
    plain, latent = adapted(model()), {"samples": empty(5)}
    expected = run(plain, latent)["samples"]
    for frames in (5, 6):
        assert torch.equal(run(CUTS[cut](plain, frames), latent)["samples"], expected)


PIECES = {
    "segments": lambda model: chained(model, 3, 0),
    "overlapping segments": lambda model: chained(model, 4, 2),
    **{f"windows, {schedule}": partial(windowed, length=4, overlap=2, schedule=schedule) for schedule in SCHEDULES},
    **{
        f"windows in segments, {schedule}": lambda model, schedule=schedule: chained(
            windowed(model, 2, 1, schedule), 4, 1
        )
        for schedule in SCHEDULES
    },
}


def assert_pieces_change_nothing(positive, negative):
    """Without an adapter, frames are independent; the conditioning itself has an effect and stays as it was."""

    def sample(model, positive=positive, negative=negative):
        return ksample(model, frames=LENGTH, steps=3, positive=positive, negative=negative)

    whole = sample(model())
    for name, cut in PIECES.items():
        assert close(sample(cut(model())), whole), name
    assert torch.equal(sample(model()), whole)
    assert not torch.allclose(sample(model(), POSITIVE, NEGATIVE), whole, atol=1e-2)


def test_prompts_of_each_frame_follow_it():
    assert_pieces_change_nothing(rows_of(POSITIVE, LENGTH), NEGATIVE)


@pytest.mark.parametrize("stacked", [False, True])
def test_hints_of_each_frame_follow_it(stacked):
    hints = pictures(LENGTH)
    positive, negative = controlled(hints)
    if stacked:
        second = positive[0][1]["control"].copy().set_cond_hint(hints.movedim(-1, 1).flip(0), 0.3)
        second.set_previous_controlnet(positive[0][1]["control"])
        positive, negative = ([[c[0][0], {**c[0][1], "control": second}]] for c in (positive, negative))
    assert_pieces_change_nothing(positive, negative)
