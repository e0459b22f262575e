"""TemporalSelfAttention against the same arithmetic written out slowly in float64."""

import math

import pytest
import torch

from sdxl_anime_video.temporal.layers.attention import TemporalSelfAttention


def random_site(dim=128, heads=2, frames=8, norm=True, seed=0, **keywords):
    torch.manual_seed(seed)
    site = TemporalSelfAttention(dim, heads, frames, norm, **keywords)
    with torch.no_grad():
        for parameter in site.parameters():
            parameter.normal_(std=0.3)
    return site


def reference(site, x, frames, positions=None):
    """Frame by frame, token by token, head by head, in float64."""
    weights = {key: value.double() for key, value in site.state_dict().items()}
    x = x.double()
    dim = x.shape[-1]
    size = dim // site.heads
    places = weights["pos_emb"][list(range(frames)) if positions is None else positions]
    out = torch.zeros_like(x)
    for clip in range(x.shape[0] // frames):
        for token in range(x.shape[1]):
            line = x[clip * frames : (clip + 1) * frames, token]  # [f c]
            if "norm.weight" in weights:
                line = line - line.mean(1, keepdim=True)
                line = line / (line.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
                line = line * weights["norm.weight"] + weights["norm.bias"]
            line = line @ weights["to_qkv.weight"].T + weights["to_qkv.bias"]
            q, k, v = line[:, :dim] + places, line[:, dim : 2 * dim] + places, line[:, 2 * dim :]
            if "pos_value" in weights:
                v = v + weights["pos_value"][list(range(frames)) if positions is None else positions]
            heads = []
            for head in range(site.heads):
                cut = slice(head * size, (head + 1) * size)
                scores = (q[:, cut] @ k[:, cut].T / math.sqrt(size)).softmax(1)
                heads.append(scores @ v[:, cut])
            line = torch.cat(heads, 1) @ weights["proj.weight"].T + weights["proj.bias"]
            out[clip * frames : (clip + 1) * frames, token] = weights["gate"] * line
    return out


def error(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("pos_value", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("clips", [1, 3])
@pytest.mark.parametrize(("dim", "heads"), [(128, 2), (64, 1), (96, 8), (60, 3)])
def test_equals_reference(dim, heads, clips, norm, pos_value):
    site = random_site(dim, heads, norm=norm, pos_value=pos_value)
    x = torch.randn(clips * 5, 6, dim)
    assert error(site(x, 5), reference(site, x, 5)) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_dtypes(dtype, limit):
    site = random_site().to(dtype)
    x = torch.randn(2 * 4, 6, 128).to(dtype)
    y = site(x, 4)
    assert y.dtype == dtype
    assert error(y, reference(site, x, 4)) < limit


@pytest.mark.parametrize("clips", [1, 2])
def test_strength_adds_to_x(clips):
    site = random_site()
    x = torch.randn(clips * 4, 6, 128)
    before = x.clone()
    y = site(x, 4, strength=0.7)
    assert torch.allclose(y, x + 0.7 * site(x, 4), atol=1e-6)
    assert y.is_contiguous()
    assert torch.equal(x, before)
    assert torch.equal(site(x, 4, strength=torch.tensor(0.7)), y)


def test_positions_choose_rows():
    site = random_site()
    x = torch.randn(3, 6, 128)
    chosen = torch.tensor([5, 2, 7])
    assert error(site(x, 3, chosen), reference(site, x, 3, [5, 2, 7])) < 1e-5
    assert torch.equal(site(x, 3, torch.arange(3)), site(x, 3))
    assert not torch.allclose(site(x, 3, chosen), site(x, 3))


@pytest.mark.parametrize("pos_value", [True, False])
def test_only_positions_in_the_values_tell_when_a_frame_is(pos_value):
    site = random_site(pos_value=pos_value)
    still = torch.randn(1, 6, 128).expand(4, -1, -1)  # every frame alike
    told_apart = (site(still, 4) - site(still, 4)[:1]).abs().max() > 1e-4
    assert told_apart == pos_value


def test_tokens_and_clips_do_not_mix():
    site = random_site()
    x = torch.randn(2 * 4, 6, 128)
    y = site(x, 4)
    changed = x.clone()
    changed[5, 3] += torch.randn(128)  # clip 1, frame 1, token 3
    moved = (site(changed, 4) - y).abs().amax(-1) > 1e-5  # [(b f) s]
    assert moved[4:, 3].all()
    moved[4:, 3] = False
    assert not moved.any()


@pytest.mark.parametrize("init", ["proj", "gate"])
def test_new_module_is_silent_and_learns(init):
    torch.manual_seed(0)
    site = TemporalSelfAttention(128, 2, 8, init=init)
    x, target = torch.randn(4, 6, 128), torch.randn(4, 6, 128)
    assert torch.equal(site(x, 4, strength=1.0), x)
    optimizer = torch.optim.SGD(site.parameters(), lr=1.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (site(x, 4) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in site.parameters())


def test_gradients_equal_the_reference():
    site = random_site(dim=32, heads=2, frames=4).double()
    x = torch.randn(2 * 3, 2, 32, dtype=torch.float64, requires_grad=True)
    parameters = [x, *site.parameters()]
    ours = torch.autograd.grad(site(x, 3).square().sum(), parameters)
    for parameter, gradient in zip(parameters, ours, strict=True):
        step = torch.randn(parameter.shape, dtype=torch.float64) * 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step
                sides.append(reference(site, x, 3).square().sum())
                parameter -= sign * step
        assert torch.isclose((gradient * step).sum(), (sides[0] - sides[1]) / 2, rtol=1e-5, atol=1e-12)


def test_autocast_over_fp32_weights():
    site = random_site()
    x = torch.randn(4, 6, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = site(x, 4, strength=1.0)
    assert y.dtype == torch.float32
    assert error(y, x.double() + reference(site, x, 4)) < 5e-2


def test_compiles_in_one_graph():
    site = random_site()
    compiled = torch.compile(site, backend="eager", fullgraph=True)
    x = torch.randn(2 * 4, 6, 128)
    assert torch.equal(compiled(x, 4, strength=0.5), site(x, 4, strength=0.5))


def test_errors():
    site = random_site(frames=8)
    with pytest.raises(ValueError, match="batch of 7 does not hold clips of 4 frames"):
        site(torch.randn(7, 6, 128), 4)
    with pytest.raises(ValueError, match="9 frames are more than the 8 learned"):
        site(torch.randn(9, 6, 128), 9)
    with pytest.raises(ValueError, match="3 heads do not divide 128"):
        TemporalSelfAttention(128, 3)
    with pytest.raises(ValueError, match="init"):
        TemporalSelfAttention(128, 2, init="zero")
