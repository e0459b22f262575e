"""Files with random weights that a graph for SDXL names, made for the toon model, and a clip for its poses.

python tests/toon_companions.py FOLDER      # ComfyUI's base directory: models/ and input/ in it
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from sdxl_anime_video.demo.comfy import unet_config
from sdxl_anime_video.demo.painter import paint_clip
from sdxl_anime_video.demo.run.comfyui import import_comfyui
from sdxl_anime_video.media.video import write_clip
from sdxl_anime_video.temporal.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.motion_module_format import save_motion_module

NAME = "tiny.safetensors"
VIDEOS = ("poses.mp4", "guide.mp4", "depth.mp4")


def write_videos(folder: Path, frames: int = 10) -> None:
    """A painted clip under the names that the graphs have; some are longer than the clip that follows them."""
    for more, name in enumerate(VIDEOS):
        painted = paint_clip("girl, blue hair, white dress, sunset, run", frames + 3 * more)
        write_clip(folder / name, painted.frames, 8)


def write_motion_module(path: Path) -> None:
    """All places of the toon UNet: two levels of one layer."""
    widths = [unet_config()["model_channels"] * factor for factor in unet_config()["channel_mult"]]
    places = {Site("down", i, 0): width for i, width in enumerate(widths)}
    places |= {Site("up", i, j): width for i, width in enumerate(reversed(widths)) for j in range(2)}
    module = MotionModule(MotionConfig(places))
    module.reset_parameters()
    with torch.no_grad():
        for site in module.sites:
            module.site(site).proj_out.weight.normal_(std=0.01)
    save_motion_module(module, path)


def write_lora(path: Path) -> None:
    """One matrix under kohya's names; beside it the same under the names that graphs have in later rows of LoRAs."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    width = unet_config()["model_channels"]
    down, up = torch.randn(2, width) / width, torch.randn(width, 2)
    for name in (path.name, "flat_color.safetensors", "lcm_lora_sdxl.safetensors"):
        save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, path.with_name(name))


def write_controlnet(path: Path) -> None:
    """Core's own ControlNet, with last layers that are not quite silent."""
    import comfy.cldm.cldm
    import comfy.ops

    config = {**unet_config(), "hint_channels": 3, "num_head_channels": 64, "operations": comfy.ops.manual_cast}
    for name in ("out_channels", "transformer_depth_output"):
        config.pop(name)
    network = comfy.cldm.cldm.ControlNet(**config, device="cpu")
    state = {
        key: torch.randn(value.shape) * (0.02 if value.ndim > 1 else 0.0) + ("norm" in key and value.ndim == 1)
        for key, value in network.state_dict().items()
    }
    save_file({f"control_model.{key}": value.contiguous() for key, value in state.items()}, path)


def main(base: Path) -> None:
    with tempfile.TemporaryDirectory() as own:
        import_comfyui(Path(own), cpu=True)
        torch.manual_seed(0)
        writers = {"loras": write_lora, "animatediff_models": write_motion_module, "controlnet": write_controlnet}
        for folder, write in writers.items():
            (base / "models" / folder).mkdir(parents=True, exist_ok=True)
            write(base / "models" / folder / NAME)
        write_videos(base / "input")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
