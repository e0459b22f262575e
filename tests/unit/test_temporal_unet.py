"""Every kind of temporal layers on diffusers' UNet: one contract, and a UNet for pipelines."""

import copy
import re
import types

import pytest
import torch

import tiny
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule
from tiny import call

FRAMES = 3
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def unet():
    return tiny.diffusers_unet()


def made(kind, sites):
    if kind == "adapter":
        return TemporalAdapter.create(sites, max_frames=8)
    return MotionModule(MotionConfig(sites, kind, max_frames=8))


def sites_of(kind, unet):
    return unet_sites(unet, TemporalAdapter if kind == "adapter" else MotionModule)


@pytest.fixture(scope="module", params=["adapter", "animatediff", "hotshot"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def layers(kind, unet):
    layers = made(kind, sites_of(kind, unet))
    tiny.randomise(layers, seed=5)
    for value in layers.buffers():
        value.normal_(generator=torch.Generator().manual_seed(1))
    return layers


@pytest.fixture(scope="module")
def inputs():
    return tiny.unet_inputs(FRAMES)


def in_precision(layers, dtype):
    return torch.nn.Module.to(copy.deepcopy(layers), dtype)  # without the warning of diffusers' own


def cast(inputs, dtype):
    nested = {name: value.to(dtype) for name, value in inputs["added_cond_kwargs"].items()}
    rows = {name: inputs[name].to(dtype) for name in ("sample", "encoder_hidden_states")}
    return {**inputs, **rows, "added_cond_kwargs": nested}


def test_detach_is_the_inverse_of_attach(unet, layers, inputs):
    before, plain = tiny.traces(unet), call(unet, inputs)
    temporal = TemporalUNet(unet, layers)
    attached = tiny.traces(unet)
    assert attached["tensors"] == before["tensors"] and attached["modules"] != before["modules"]
    temporal.attach()
    assert tiny.traces(unet) == attached
    assert (call(temporal, inputs, num_frames=FRAMES) - plain).norm() > 1e-2 * plain.norm()
    assert torch.equal(call(unet, inputs), plain)  # on its own the UNet stays vanilla
    assert temporal.detach() is unet
    temporal.detach()
    assert tiny.traces(unet) == before
    assert torch.equal(call(unet, inputs), plain)
    with pytest.raises(ZeroDivisionError), TemporalUNet(unet, layers):
        raise ZeroDivisionError
    assert tiny.traces(unet) == before


def test_neutral_settings_are_vanilla(unet, kind, layers, inputs):
    plain = call(unet, inputs)
    with TemporalUNet(unet, layers) as temporal:
        assert torch.equal(call(temporal, inputs, num_frames=1), plain)
    with TemporalUNet(unet, layers, strength=0.0) as temporal:
        assert torch.equal(call(temporal, inputs, num_frames=FRAMES), plain)
    silent = made(kind, sites_of(kind, unet))
    if kind != "adapter":
        silent.reset_parameters()
    assert silent.is_silent() and not layers.is_silent()
    if kind != "hotshot":  # which still takes its norms across frames
        with TemporalUNet(unet, silent) as temporal:
            assert torch.equal(call(temporal, inputs, num_frames=FRAMES), plain)


def test_positions(unet, layers, inputs):
    with TemporalUNet(unet, layers) as temporal:
        whole = call(temporal, inputs, num_frames=FRAMES)
        assert torch.equal(call(temporal, inputs, num_frames=FRAMES, positions=torch.arange(FRAMES)), whole)
        assert not torch.allclose(call(temporal, inputs, num_frames=FRAMES, positions=torch.tensor([4, 5, 6])), whole)


@pytest.mark.parametrize("kind", ["adapter"], indirect=True)
def test_a_second_adapter_is_refused(unet, layers):
    with TemporalUNet(unet, layers):
        attached = tiny.traces(unet)
        with pytest.raises(ValueError, match="Detach that one"):
            TemporalUNet(unet, layers)
        assert tiny.traces(unet) == attached


@pytest.mark.parametrize("dtype", HALVES)
def test_half_layers_on_a_full_unet_are_their_weights_in_full(unet, layers, inputs, dtype):
    half = in_precision(layers, dtype)
    with TemporalUNet(unet, in_precision(half, torch.float32)) as temporal:
        expected = call(temporal, inputs, num_frames=FRAMES)
    with TemporalUNet(unet, half) as temporal:
        got = call(temporal, inputs, num_frames=FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            assert call(temporal, inputs, num_frames=FRAMES).isfinite().all()
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert {value.dtype for value in half.parameters()} == {dtype}  # the layers themselves stay as they are


@pytest.mark.parametrize("kind", ["adapter"], indirect=True)
@pytest.mark.parametrize("of_layers", [torch.float32, *HALVES])
@pytest.mark.parametrize("dtype", HALVES)
def test_any_adapter_on_a_half_unet(unet, layers, inputs, dtype, of_layers):
    with TemporalUNet(unet, layers) as temporal:
        expected = call(temporal, inputs, num_frames=FRAMES)
    with TemporalUNet(in_precision(unet, dtype), in_precision(layers, of_layers)) as temporal:
        got = call(temporal, cast(inputs, dtype), num_frames=FRAMES)
    assert got.dtype == dtype
    assert (got.float() - expected).norm() / expected.norm() < (1e-2 if dtype == torch.float16 else 1e-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trains_the_layers_alone_and_with_checkpointing(layers, inputs, dtype):
    gradients = []
    for checkpointing in (False, True):
        unet = in_precision(tiny.diffusers_unet(), dtype).requires_grad_(False).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        learning = copy.deepcopy(layers)
        temporal = TemporalUNet(unet, learning)
        assert {name.split(".")[0] for name, p in temporal.named_parameters() if p.requires_grad} == {"layers"}
        temporal(**cast(inputs, dtype), num_frames=FRAMES)[0].float().square().mean().backward()
        assert all(value.grad is None for value in unet.parameters())
        gradients.append({name: value.grad for name, value in learning.named_parameters()})
    assert not any(name.endswith(".pe") for name in gradients[0])
    for name, grad in gradients[0].items():
        assert grad.dtype == torch.float32 and grad.isfinite().all() and grad.abs().max() > 0, name
        assert torch.allclose(grad, gradients[1][name], rtol=1e-4, atol=1e-7), name


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


@pytest.mark.parametrize("kind", ["adapter"], indirect=True)
def test_an_adapters_residual_sits_between_the_attentions(unet, layers, inputs):
    expected = call(with_reference_blocks(tiny.diffusers_unet(), layers, FRAMES), inputs)
    with TemporalUNet(unet, layers) as temporal:
        got = call(temporal, inputs, num_frames=FRAMES)
    assert (got - expected).norm() / expected.norm() < 1e-5


def test_frames_are_those_of_the_call_or_of_the_unet(unet, layers, inputs):
    with TemporalUNet(unet, layers) as temporal:
        expected = call(temporal, inputs, num_frames=FRAMES)
        with pytest.raises(ValueError, match=r"num_frames is not set.*TemporalUNet\(unet, layers, num_frames=16\)"):
            call(temporal, inputs)
        with pytest.raises(ValueError, match="a batch of 6 does not hold clips of 4 frames"):
            call(temporal, inputs, num_frames=4)
        temporal.num_frames = FRAMES
        assert torch.equal(call(temporal, inputs), expected)
    with TemporalUNet(unet, layers, num_frames=FRAMES) as temporal:
        assert torch.equal(call(temporal, inputs), expected)
        assert not torch.equal(call(temporal, inputs, num_frames=2 * FRAMES), expected)


def test_misfit_counts_first_and_names_three(kind, unet):
    sites = sites_of(kind, unet)
    first, second, *_ = sites
    strange = tiny.diffusers_unet(tiny.TinyConfig((64, 128, 128, 128), (1, 1, 2, 2)))
    beyond = next(site for site in sites_of(kind, strange) if site not in sites)
    shape = (64, 1) if kind == "adapter" else 96
    wrong = {**sites, beyond: shape, second: shape}
    del wrong[first]
    before = tiny.traces(unet)
    with pytest.raises(ValueError) as caught:
        TemporalUNet(unet, made(kind, wrong))
    message, name = str(caught.value), "adapter" if kind == "adapter" else "motion module"
    fits = f"fits {len(sites) - 2} of {len(sites)} sites of the model UNet2DConditionModel"
    assert message.startswith(f"the {name} {fits}; ")
    assert (f"missing in the adapter: 1, such as {first}" in message) == (kind == "adapter")
    assert f"missing in the model: 1, such as {beyond}" in message
    words = "64 channels in 1 heads" if kind == "adapter" else "96 channels"
    assert f"of another shape: 1, such as {second} ({words}, the model has " in message
    assert message.endswith("Use an SDXL model, or an adapter or motion module that was trained for this one.")
    assert tiny.traces(unet) == before


def test_a_model_of_another_kind_is_one_short_sentence(unet):
    sites = {f"down_blocks.9.attentions.0.transformer_blocks.{i}": (64, 1) for i in range(70)}
    with pytest.raises(ValueError, match="fits 0 of") as caught:
        TemporalUNet(unet, TemporalAdapter.create(sites))
    assert len(re.findall("transformer_blocks", str(caught.value))) <= 3 and len(str(caught.value)) < 450


def test_it_is_a_unet_to_a_pipeline(unet, layers):
    """The plain pipeline's clip, frame for frame, with silent layers; another one with these."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4, norm_num_groups=8).eval()
    missing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear")
    pipe = StableDiffusionXLPipeline(vae=vae, unet=unet, scheduler=scheduler, **missing, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    text, pooled = torch.randn(1, 77, tiny.TINY.context), torch.randn(1, tiny.TINY.pooled)

    def clip():
        given = {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
        given |= {f"negative_{name}": -value for name, value in given.items()}
        sizes = {"height": 8, "width": 8, "num_images_per_prompt": FRAMES, "num_inference_steps": 2}
        latents = tiny.latent(FRAMES, 8, 8)
        return pipe(**given, **sizes, latents=latents, guidance_scale=3.0, output_type="latent").images

    plain = clip()
    with TemporalUNet(unet, layers, num_frames=FRAMES) as temporal:
        pipe.unet = temporal
        assert pipe.device == unet.device and pipe.unet.config is unet.config and pipe.unet.dtype == unet.dtype
        assert (clip() - plain).norm() > 1e-2 * plain.norm()
        temporal.strength = 0.0
        assert torch.equal(clip(), plain)
        pipe.to(torch.float64)
        assert {value.dtype for value in (*unet.parameters(), *layers.parameters())} == {torch.float64}
        pipe.to(torch.float32)
    assert torch.equal(clip(), plain)  # detached, it is still the plain UNet
