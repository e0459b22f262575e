"""The adapter on diffusers' UNet: the right place, precisions, training."""

import types

import pytest
import torch

import tiny
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter

FRAMES = 3


@pytest.fixture(scope="module")
def unet():
    return tiny.diffusers_unet()


@pytest.fixture(scope="module")
def adapter(unet):
    made = TemporalAdapter.create(unet_sites(unet, TemporalAdapter), max_frames=8)
    tiny.randomise(made, seed=5)
    return made


@pytest.fixture(scope="module")
def inputs():
    rows = 2 * FRAMES
    return {
        "sample": tiny.latent(rows, 8, 8),
        "timestep": torch.tensor(400),
        "encoder_hidden_states": torch.randn(rows, 77, 64),
        "added_cond_kwargs": {"text_embeds": torch.randn(rows, 64), "time_ids": torch.full((rows, 6), 64.0)},
        "return_dict": False,
    }


def call(model, inputs, **keywords):
    with torch.no_grad():
        return model(**inputs, **keywords)[0]


def with_reference_blocks(unet, adapter, frames):
    """The UNet with every block's forward written out, the adapter's residual between attn1 and attn2."""
    for path in unet_sites(unet, TemporalAdapter):
        block, site = unet.get_submodule(path), adapter.site(path)

        def forward(self, hidden_states, encoder_hidden_states=None, _site=site, **_):
            h = hidden_states + self.attn1(self.norm1(hidden_states))
            h = h + _site(h, frames)
            h = h + self.attn2(self.norm2(h), encoder_hidden_states=encoder_hidden_states)
            return h + self.ff(self.norm3(h))

        block.forward = types.MethodType(forward, block)
    return unet


def test_residual_sits_between_the_attentions(unet, adapter, inputs):
    expected = call(with_reference_blocks(tiny.diffusers_unet(), adapter, FRAMES), inputs)
    plain = call(unet, inputs)
    with TemporalUNet(unet, adapter) as temporal:
        got = call(temporal, inputs, num_frames=FRAMES)
    assert (got - expected).norm() / expected.norm() < 1e-5
    assert (got - plain).norm() / plain.norm() > 1e-2


def test_neutral_settings_are_vanilla(unet, adapter, inputs):
    plain = call(unet, inputs)
    with TemporalUNet(unet, adapter) as temporal:
        assert torch.equal(call(temporal, inputs, num_frames=1), plain)
        assert torch.equal(call(unet, inputs), plain)  # on its own the UNet stays vanilla
    with TemporalUNet(unet, adapter, strength=0.0) as temporal:
        assert torch.equal(call(temporal, inputs, num_frames=FRAMES), plain)
    with TemporalUNet(unet, TemporalAdapter.create(unet_sites(unet, TemporalAdapter))) as temporal:
        assert torch.equal(call(temporal, inputs, num_frames=FRAMES), plain)


HALVES = (torch.float16, torch.bfloat16)


def in_precision(adapter, dtype):
    """A copy of the adapter."""
    copied = TemporalAdapter.create(unet_sites(tiny.diffusers_unet(), TemporalAdapter), max_frames=8)
    copied.load_state_dict(adapter.state_dict())
    return copied.to(dtype)


def cast(inputs, dtype):
    def one(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    nested = {name: one(value) for name, value in inputs["added_cond_kwargs"].items()}
    return {**{name: one(value) for name, value in inputs.items()}, "added_cond_kwargs": nested}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_adapter_on_a_full_unet_is_its_weights_in_full(adapter, inputs, dtype):
    half = in_precision(adapter, dtype)
    with TemporalUNet(tiny.diffusers_unet(), in_precision(half, torch.float32)) as temporal:
        expected = call(temporal, inputs, num_frames=FRAMES)
    with TemporalUNet(tiny.diffusers_unet(), half) as temporal:
        got = call(temporal, inputs, num_frames=FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            assert call(temporal, inputs, num_frames=FRAMES).isfinite().all()
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert {value.dtype for value in half.parameters()} == {dtype}  # the adapter itself stays as it is


@pytest.mark.parametrize("of_adapter", [torch.float32, *HALVES])
@pytest.mark.parametrize("dtype", HALVES)
def test_any_adapter_on_a_half_unet(adapter, inputs, dtype, of_adapter):
    with TemporalUNet(tiny.diffusers_unet(), adapter) as temporal:
        expected = call(temporal, inputs, num_frames=FRAMES)
    unet = tiny.diffusers_unet()
    torch.nn.Module.to(unet, dtype)
    with TemporalUNet(unet, in_precision(adapter, of_adapter)) as temporal:
        got = call(temporal, cast(inputs, dtype), num_frames=FRAMES)
    assert got.dtype == dtype
    assert (got.float() - expected).norm() / expected.norm() < (1e-2 if dtype == torch.float16 else 1e-1)


def test_a_full_adapter_on_a_half_unet_learns_in_full(inputs, adapter):
    unet = tiny.diffusers_unet().requires_grad_(False)
    torch.nn.Module.to(unet, torch.bfloat16)
    learning = in_precision(adapter, torch.float32)
    TemporalUNet(unet, learning)(**cast(inputs, torch.bfloat16), num_frames=FRAMES)[
        0
    ].float().square().mean().backward()
    assert all(value.grad.dtype == torch.float32 and value.grad.abs().max() > 0 for value in learning.parameters())


def test_a_second_adapter_is_refused(unet, adapter):
    with TemporalUNet(unet, adapter):
        attached = tiny.traces(unet)
        with pytest.raises(ValueError, match="Detach that one"):
            TemporalUNet(unet, adapter)
        assert tiny.traces(unet) == attached


def test_positions(unet, adapter, inputs):
    with TemporalUNet(unet, adapter) as temporal:
        whole = call(temporal, inputs, num_frames=FRAMES)
        assert torch.equal(call(temporal, inputs, num_frames=FRAMES, positions=torch.arange(FRAMES)), whole)
        assert not torch.allclose(call(temporal, inputs, num_frames=FRAMES, positions=torch.tensor([4, 5, 6])), whole)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains_the_adapter_alone(inputs, checkpointing):
    unet = tiny.diffusers_unet().requires_grad_(False).train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    adapter = TemporalAdapter.create(unet_sites(unet, TemporalAdapter))
    tiny.randomise(adapter, seed=5)
    temporal = TemporalUNet(unet, adapter)
    assert {name.split(".")[0] for name, p in temporal.named_parameters() if p.requires_grad} == {"layers"}
    out = temporal(**inputs, num_frames=FRAMES)[0]
    out.square().mean().backward()
    assert all(p.grad is None for p in unet.parameters())
    gradients = {name: p.grad for name, p in adapter.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in gradients.values())
    if checkpointing:
        plain = tiny.diffusers_unet().requires_grad_(False).train()
        adapter.zero_grad()
        TemporalUNet(plain, adapter)(**inputs, num_frames=FRAMES)[0].square().mean().backward()
        for name, parameter in adapter.named_parameters():
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)
