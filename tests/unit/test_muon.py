"""Muon beside PyTorch's own optimizers."""

import pytest
import torch

from sdxl_anime_video.training.step.optimizers import Muon, orthogonal

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1}


def run(make, shape, steps=5):
    """A parameter after some steps of given gradients."""
    random = torch.Generator().manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=random))
    optimizer = make([parameter])
    for _ in range(steps):
        parameter.grad = torch.randn(shape, generator=random)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_singular_values_come_to_lie_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    want = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity((u @ v).flatten(), (want[0] @ want[2]).flatten(), dim=0)
    assert cosine > 0.99


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonal(torch.zeros(4, 3)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has its Muon from 2.9 on")
@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_matrices_move_as_under_pytorchs_muon(shape):
    theirs = run(
        lambda p: torch.optim.Muon(p, momentum=0.9, adjust_lr_fn="match_rms_adamw", **SETTINGS),
        shape,
    )
    ours = run(lambda p: Muon([{"params": p, "orthogonal": True}], **SETTINGS), shape)
    start = run(lambda p: Muon(p), shape, steps=0)
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()  # theirs computes in bf16


@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_other_parameters_move_as_under_adamw(shape):
    theirs = run(lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99), **SETTINGS), shape)
    ours = run(lambda p: Muon([{"params": p}], betas=(0.9, 0.99), **SETTINGS), shape)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
