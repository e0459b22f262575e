"""The map of transformer blocks against real modules of diffusers, SDXL's full size included (on the meta device)."""

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel

import tiny
from sdxl_anime_video.temporal.hosts.comfy.layers.blocks import transformer_blocks

SDXL_DIFFUSERS = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_COMFY = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "num_head_channels": 64,
    "num_heads": -1,
}
# a distilled SDXL whose depths differ from resnet to resnet and from down to up
SSD_1B_DIFFUSERS = {
    **SDXL_DIFFUSERS,
    "transformer_layers_per_block": [1, 2, [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "mid_block_type": None,
}
SSD_1B_COMFY = {
    **SDXL_COMFY,
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
    "transformer_depth_middle": -1,
}


def modules_of(unet):
    """Path -> (channels, heads) of the real blocks."""
    return {
        name: (module.norm1.normalized_shape[0], module.attn1.heads)
        for name, module in unet.named_modules()
        if type(module).__name__ == "BasicTransformerBlock"
    }


@pytest.mark.parametrize(
    ("comfy", "diffusers"),
    [
        (SDXL_COMFY, SDXL_DIFFUSERS),
        (SSD_1B_COMFY, SSD_1B_DIFFUSERS),
        ({**tiny.TINY.comfy(), "num_head_channels": 64}, tiny.TINY.diffusers()),
        ({**tiny.ALL_LEVELS.comfy(), "num_head_channels": 64}, tiny.ALL_LEVELS.diffusers()),
    ],
    ids=["sdxl", "ssd_1b", "tiny", "all_levels"],
)
def test_equals_the_modules_of_diffusers(comfy, diffusers):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**diffusers)
    assert {block.path: (block.dim, block.heads) for block in transformer_blocks(comfy)} == modules_of(unet)


def test_full_sdxl_has_70_blocks():
    blocks = transformer_blocks(SDXL_COMFY)
    assert len(blocks) == 70
    assert Counter(block.dim for block in blocks) == {640: 10, 1280: 60}
    assert {block.dim // block.heads for block in blocks} == {64}
    assert len({(block.block, block.index) for block in blocks}) == 70


def test_known_places():
    places = {block.path: (block.block, block.index) for block in transformer_blocks(SDXL_COMFY)}
    assert places["down_blocks.1.attentions.0.transformer_blocks.1"] == (("input", 4), 1)
    assert places["down_blocks.2.attentions.1.transformer_blocks.9"] == (("input", 8), 9)
    assert places["mid_block.attentions.0.transformer_blocks.0"] == (("middle", 0), 0)
    assert places["up_blocks.0.attentions.0.transformer_blocks.3"] == (("output", 0), 3)
    assert places["up_blocks.1.attentions.2.transformer_blocks.1"] == (("output", 5), 1)


@pytest.mark.parametrize("config", [{}, {"model_channels": 320}, {"image_model": "flux", "depth": 19}])
def test_other_models(config):
    with pytest.raises(ValueError, match="not the configuration of a UNet"):
        transformer_blocks(config)
