"""What a graph for SDXL names beside the files that come with the pack: LoRAs of a style, and videos to follow."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from sdxl_anime_video.demo.hints import hint_pictures
from sdxl_anime_video.demo.model import UNET_WIDTHS
from sdxl_anime_video.demo.painter import paint_clip
from sdxl_anime_video.media.writer import write_clip

LORAS = ("style.safetensors", "flat_color.safetensors")
VIDEOS = {"poses.mp4": "pose", "depth.mp4": "depth", "guide.mp4": None}


def write_videos(folder: Path, frames: int = 10) -> None:
    """A painted clip and its hints under the names that the graphs have; some are longer than the clip that follows."""
    for more, (name, hint) in enumerate(VIDEOS.items()):
        painted = paint_clip("girl, blue hair, white dress, sunset, run", frames + 3 * more)
        write_clip(folder / name, hint_pictures(painted, hint) if hint else painted.frames, 8)


def write_loras(folder: Path) -> None:
    """One matrix with random weights under kohya's names, in each file."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    width = UNET_WIDTHS[0]
    torch.manual_seed(0)
    down, up = torch.randn(2, width) / width, torch.randn(width, 2)
    for name in LORAS:
        save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, folder / name)


def main(base: Path) -> None:
    """Write them all below ComfyUI's base directory, into models/ and input/."""
    (base / "models" / "loras").mkdir(parents=True, exist_ok=True)
    write_loras(base / "models" / "loras")
    write_videos(base / "input")
