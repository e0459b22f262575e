"""Motion modules against diffusers' own: each transformer and the whole UNet."""

import pytest
import torch

import tiny
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.layers.transformer import SEQUENCES
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module
from tiny import call

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
    return tiny.unet_inputs(FRAMES)


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
