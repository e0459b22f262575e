"""Time of a UNet forward with the temporal adapter, or with a motion module, as a ratio to the plain forward.

    python -m sdxl_anime_video.benchmarks.adapter_overhead  # toon size on the CPU
    python -m sdxl_anime_video.benchmarks.adapter_overhead FILE...  # these weights, in the toon model itself
    python -m sdxl_anime_video.benchmarks.adapter_overhead \\
        --size sdxl --device cuda --dtype float16 --pixels 768 --frames 16 --clips 2

Without files weights are random, for time does not depend on them, and the motion modules have the published places and
sizes. Plain and patched forwards take turns, so that drift of the machine hits all, and the median is reported. `floor`
is the ratio of multiply-adds in the matrix products alone.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..demo.model import load_toon_diffusers
from ..temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from ..temporal.layers.adapter import TemporalAdapter
from ..temporal.layers.motion_module import FORMATS, MotionConfig, MotionModule
from ..temporal.weights.formats import load_layers
from .training_step import TOKENS, unet_config

TOON_SIZE = {
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (1, 2, 4),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
}


def build(arguments: argparse.Namespace) -> tuple[torch.nn.Module, dict]:
    """UNet and the arguments of a forward."""
    from diffusers import UNet2DConditionModel

    where = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    if arguments.weights:
        unet = load_toon_diffusers()[0].to(**where)
    else:
        config = unet_config("sdxl") | (TOON_SIZE if arguments.size == "toon" else {})
        with torch.device(arguments.device):
            unet = UNet2DConditionModel.from_config(config).to(**where).eval()
    config = unet.config
    rows, side = arguments.frames * arguments.clips, arguments.pixels // 8
    inputs = {
        "sample": torch.randn(rows, 4, side, side, **where),
        "timestep": torch.tensor(500, device=arguments.device),
        "encoder_hidden_states": torch.randn(rows, TOKENS, config.cross_attention_dim, **where),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, config.projection_class_embeddings_input_dim - 6 * 256, **where),
            "time_ids": torch.full((rows, 6), float(arguments.pixels), **where),
        },
    }
    return unet, inputs


def temporal_layers(unet: torch.nn.Module, arguments: argparse.Namespace) -> dict[str, TemporalUNet]:
    """The UNet with each kind of temporal layers; with all of them at once it stays the plain UNet in between."""
    where = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    if arguments.weights:
        return {path.stem: TemporalUNet(unet, load_layers(path).to(**where)) for path in arguments.weights}
    most = max(24, arguments.frames)
    places = {site: width for site, width in unet_sites(unet, MotionModule).items() if site.direction != "mid"}
    adapter = TemporalAdapter.create(unet_sites(unet, TemporalAdapter), max_frames=most, **where)
    made = {"adapter": TemporalUNet(unet, adapter)}
    for kind in FORMATS:
        module = MotionModule(MotionConfig(places, kind, most), **where)
        module.reset_parameters()
        made[kind] = TemporalUNet(unet, module)
    return made


def seconds(forward, device: str) -> float:
    """Time of one call."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    forward()
    synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(arguments: argparse.Namespace) -> str:
    """The figures as lines."""
    unet, inputs = build(arguments)
    layers = temporal_layers(unet, arguments)
    runs = {"plain": lambda: unet(**inputs)}
    runs |= {name: partial(model, **inputs, num_frames=arguments.frames) for name, model in layers.items()}
    work = {}
    for name, run in runs.items():  # which also warms up
        with FlopCounterMode(display=False) as counter:
            run()
        work[name] = counter.get_total_flops()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, arguments.device))
    middle = {name: statistics.median(some) for name, some in times.items()}
    size = "toon model" if arguments.weights else arguments.size
    lines = [
        f"{size} {arguments.pixels} px, {arguments.clips} x {arguments.frames} frames, {arguments.dtype} on "
        f"{arguments.device}: plain {middle['plain'] * 1e3:.1f} ms"
    ]
    for name, model in layers.items():
        parameters = sum(value.numel() for value in model.layers.parameters())
        lines.append(
            f"  {name} ({parameters / 1e6:.1f} M parameters): {middle[name] * 1e3:.1f} ms, ratio "
            f"{middle[name] / middle['plain']:.3f}, floor {work[name] / work['plain']:.3f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path, help="adapters and motion modules for the toon model")
    parser.add_argument("--size", choices=["toon", "sdxl"], default="toon")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--pixels", type=int, default=128, help="side of a frame")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=2, help="2 for cond and uncond together")
    parser.add_argument("--repeats", type=int, default=5)
    sys.stdout.write(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
