"""Motion modules against diffusers' own: each transformer, the whole UNet, precisions, training."""

import pytest
import torch

import tiny
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.layers.transformer import SEQUENCES
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module

FRAMES = 3


def difference(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def unet():
    return tiny.diffusers_unet()


@pytest.fixture(scope="module")
def adapter():
    """diffusers' MotionAdapter for the tiny UNet, every parameter random."""
    from diffusers import MotionAdapter

    made = MotionAdapter(
        block_out_channels=tiny.TINY.widths,
        motion_layers_per_block=1,
        motion_max_seq_length=16,
        use_motion_mid_block=True,
    )
    tiny.randomise(made, seed=7)
    return made.eval()


@pytest.fixture(scope="module")
def module(adapter, tmp_path_factory):
    """The same, through a file."""
    folder = tmp_path_factory.mktemp("adapter")
    adapter.save_pretrained(folder)
    return load_motion_module(folder)


@pytest.fixture(scope="module")
def inputs():
    rows = 2 * FRAMES
    return {
        "sample": tiny.latent(rows, 8, 8),
        "timestep": torch.tensor(400),
        "encoder_hidden_states": torch.randn(2, 77, 64).repeat_interleave(FRAMES, 0),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, 64).repeat_interleave(FRAMES, 0),
            "time_ids": torch.full((rows, 6), 64.0),
        },
        "return_dict": False,
    }


def call(model, inputs, **keywords):
    with torch.no_grad():
        return model(**inputs, **keywords)[0]


@pytest.mark.parametrize("width", [64, 128, 1280])
def test_a_transformer_is_that_of_diffusers(width):
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    theirs = AnimateDiffTransformer3D(
        num_attention_heads=8,
        attention_head_dim=width // 8,
        in_channels=width,
        norm_num_groups=32,
        num_layers=1,
        activation_fn="geglu",
        attention_bias=False,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=16,
    )
    tiny.randomise(theirs, seed=1)
    site = Site("down", 0, 0)
    state = {f"{site.path}.{key}": value for key, value in theirs.state_dict().items()}
    ours = loaded(state)
    x = torch.randn(2 * FRAMES, width, 6, 4)
    with torch.no_grad():
        assert difference(ours.site(site)(x, FRAMES), theirs(x, num_frames=FRAMES)) < 1e-6


def loaded(state, heads=8):
    """A module from tensors under a published layout's names."""
    from sdxl_anime_video.temporal.weights.motion.keys import read_contents

    contents = read_contents({key: tuple(value.shape) for key, value in state.items()}, heads)
    module = MotionModule(contents.config)
    module.load_state_dict({ours: state[key] for key, all_ours in contents.names.items() for ours in all_ours})
    return module


def test_the_whole_unet_is_that_of_diffusers(unet, adapter, module, inputs):
    from diffusers import UNetMotionModel

    theirs = UNetMotionModel.from_unet2d(unet, adapter).eval()
    theirs.add_embedding.load_state_dict(unet.add_embedding.state_dict())  # from_unet2d leaves these at random
    clips = {
        **inputs,
        "sample": inputs["sample"].unflatten(0, (2, FRAMES)).transpose(1, 2),
    }
    # UNetMotionModel repeats for every frame what is added, but not the text
    clips["added_cond_kwargs"] = {k: v[::FRAMES] for k, v in inputs["added_cond_kwargs"].items()}
    expected = call(theirs, clips).transpose(1, 2).flatten(0, 1)
    with TemporalUNet(unet, module) as motion:
        got = call(motion, inputs, num_frames=FRAMES)
    assert difference(got, expected) < 1e-5
    assert difference(got, call(unet, inputs)) > 1e-2


def test_the_unet_alone_one_frame_and_strength_zero_are_vanilla(unet, module, inputs):
    plain = call(unet, inputs)
    with TemporalUNet(unet, module) as motion:
        assert torch.equal(call(motion, inputs, num_frames=1), plain)
        call(motion, inputs, num_frames=FRAMES)
        assert torch.equal(call(unet, inputs), plain)
    with TemporalUNet(unet, module, strength=0.0) as motion:
        assert torch.equal(call(motion, inputs, num_frames=FRAMES), plain)
    silent = MotionModule(module.config)
    silent.reset_parameters()
    assert silent.is_silent() and not module.is_silent()
    with TemporalUNet(unet, silent) as motion:
        assert torch.equal(call(motion, inputs, num_frames=FRAMES), plain)


def norm_of_clips(x, norm):
    whole = x.unflatten(0, (-1, FRAMES)).transpose(1, 2)  # [b c f h w]
    found = torch.nn.functional.group_norm(whole, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return found.transpose(1, 2).flatten(0, 1)


def test_norms_across_frames(unet, inputs):
    """Hotshot-XL's way with a silent module: the UNet with its ResBlock norms written out across frames."""
    module = MotionModule(MotionConfig(unet_sites(unet, MotionModule), "hotshot", max_frames=8))
    module.reset_parameters()
    reference = tiny.diffusers_unet()
    for name, layer in reference.named_modules():
        if isinstance(layer, torch.nn.GroupNorm) and ".attentions." not in name:
            layer.forward = lambda x, n=layer: norm_of_clips(x, n)
    with TemporalUNet(unet, module) as motion:
        got = call(motion, inputs, num_frames=FRAMES)
    assert difference(got, call(reference, inputs)) < 1e-6
    assert difference(got, call(unet, inputs)) > 1e-3


def test_positions_and_strength(module):
    site = Site("mid", 0, 0)
    x, transformer = torch.randn(2 * FRAMES, module.sites[site], 6, 4), module.site(site)
    with torch.no_grad():
        whole = transformer(x, FRAMES)
        assert torch.equal(transformer(x, FRAMES, torch.arange(FRAMES)), whole)
        assert not torch.allclose(transformer(x, FRAMES, torch.arange(FRAMES) + 3), whole)
        assert torch.allclose(transformer(x, FRAMES, strength=0.5), (x + whole) / 2, atol=1e-6)
        frame = torch.tensor([0.0, 1.0, 0.5]).repeat(2)[:, None, None, None]
        assert torch.equal(transformer(x, FRAMES, strength=frame)[0::FRAMES], x[0::FRAMES])
        with pytest.raises(ValueError, match="17 frames are more than the motion module's 16 positions"):
            transformer(torch.randn(17, module.sites[site], 1, 1), 17)


def test_many_pixels_are_computed_in_pieces(module):
    site = Site("down", 0, 0)
    x, transformer = torch.randn(2 * FRAMES, module.sites[site], 96, 96), module.site(site)
    assert 2 * 96 * 96 > SEQUENCES > 96 * 96
    with torch.no_grad():
        alone = torch.cat([transformer(clip, FRAMES) for clip in x.split(FRAMES)])
        assert torch.allclose(transformer(x, FRAMES), alone, atol=1e-5)


def test_precisions(unet, module, inputs):
    """A module computes in the precision of what it is given."""
    site = Site("down", 0, 0)
    half = MotionModule(module.config, dtype=torch.float16)
    half.load_state_dict(module.state_dict())
    with TemporalUNet(unet, half) as motion:
        got = call(motion, inputs, num_frames=FRAMES)
    with TemporalUNet(unet, module) as motion:
        assert difference(got, call(motion, inputs, num_frames=FRAMES)) < 1e-2
    assert got.dtype == torch.float32 and half.site(site).proj_in.weight.dtype == torch.float16


def test_trains_the_module_alone_and_with_checkpointing(inputs):
    gradients = []
    for checkpointing in (False, True):
        unet = tiny.diffusers_unet().requires_grad_(False).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        module = MotionModule(MotionConfig(unet_sites(unet, MotionModule), max_frames=8))
        tiny.randomise(module, seed=5)
        for name, value in module.named_buffers():
            value.normal_(generator=torch.Generator().manual_seed(len(name)))
        out = TemporalUNet(unet, module)(**inputs, num_frames=FRAMES)[0]
        out.square().mean().backward()
        assert all(value.grad is None for value in unet.parameters())
        gradients.append({name: value.grad for name, value in module.named_parameters()})
    assert not any(".pe" in name for name in gradients[0])
    for name, grad in gradients[0].items():
        assert grad is not None and grad.abs().max() > 0, name
        assert torch.allclose(grad, gradients[1][name], rtol=1e-4, atol=1e-7), name
