"""Memory of Decode and Save Clip on long clips as a ratio to short ones. It must not grow with the frames.

    python -m sdxl_anime_video.benchmarks.decode_memory  # 64 and 1,024 frames of toon size
    python -m sdxl_anime_video.benchmarks.decode_memory --pixels 768 --frames 16 128 --vae narrow

Each clip is decoded and saved by the node in a process of its own, in a real ComfyUI on the CPU, and the largest
resident set of that process is reported; `idle` is its size before. `--vae toon` is the demo's VAE, `narrow` one of the
same layout with few channels and random weights, for large frames. Exit status 1 if the ratio is 1.1 or more.
"""

import argparse
import asyncio
import inspect
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .. import comfy_entrypoint
from ..headless.comfyui import import_comfyui

LIMIT = 1.1
MODULE = "sdxl_anime_video.benchmarks.decode_memory"


def narrow_vae():
    """An SDXL VAE with 32 channels everywhere."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from ..demo.comfy import vae_config

    config = vae_config(width=32, multiples=(1, 1, 1, 1), blocks=0)
    model = AutoencoderKL(**config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return comfy.sd.VAE(sd=model.state_dict(), config={"params": config})


def resident() -> tuple[float, float]:
    """MiB of this process now and at most so far."""
    import resource

    import psutil

    unit = 1 if sys.platform == "darwin" else 1024
    return psutil.Process().memory_info().rss / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def node_class(node_id: str) -> Any:
    """The pack's node of this id, from the list that ComfyUI is given."""

    async def nodes() -> list[Any]:
        return await (await comfy_entrypoint()).get_node_list()

    return next(cls for cls in asyncio.run(nodes()) if cls.define_schema().node_id == node_id)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Decode and save one clip in this process."""
    with tempfile.TemporaryDirectory(prefix="sav-memory-") as base:
        import_comfyui(Path(base))
        from ..demo.comfy import load_toon_comfy

        vae = load_toon_comfy()[2] if arguments.vae == "toon" else narrow_vae()
        cls = node_class("SAV_DecodeAndSaveClip")
        wrapped = "v3_data" in inspect.signature(cls.PREPARE_CLASS_CLONE).parameters  # later ComfyUI
        node = cls.PREPARE_CLASS_CLONE({"hidden_inputs": {}} if wrapped else {})
        idle, _ = resident()
        side = arguments.pixels // 8
        with torch.inference_mode():  # as ComfyUI runs nodes
            latents = torch.randn(arguments.frames[0], 4, side, side, generator=torch.Generator().manual_seed(0))
            node.execute({"samples": latents}, vae, arguments.tile_size, save_frames=arguments.save_frames)
        return {"idle": idle, "peak": resident()[1]}


def compare(arguments: argparse.Namespace) -> float:
    """Measure each length and write a line about it; the ratio of the last to the first."""
    peaks = []
    for frames in arguments.frames:
        command = [sys.executable, "-m", MODULE, *sys.argv[1:], "--child", "--frames", str(frames)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        peaks.append(figures["peak"])
        sys.stdout.write(
            f"{frames:5d} frames of {arguments.pixels} px, {arguments.vae} VAE: peak {figures['peak']:.0f} MiB, "
            f"idle {figures['idle']:.0f} MiB\n"
        )
        sys.stdout.flush()
    return peaks[-1] / peaks[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 1024], help="lengths of the clips")
    parser.add_argument("--pixels", type=int, default=128, help="side of a frame")
    parser.add_argument("--vae", choices=["toon", "narrow"], default="toon")
    parser.add_argument("--tile-size", type=int, default=0)
    parser.add_argument("--save-frames", action="store_true", help="PNGs, too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(arguments)) + "\n")
        return 0
    ratio = compare(arguments)
    sys.stdout.write(f"ratio {ratio:.3f}, limit {LIMIT}\n")
    return int(ratio >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
