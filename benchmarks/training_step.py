"""One training step of ours beside one of Hotshot-XL's `fine_tune.py`: seconds and memory, on the same base.

    python -m sdxl_anime_video.benchmarks.training_step  # ours alone, a small base on the CPU
    python -m sdxl_anime_video.benchmarks.training_step FOLDER  # FOLDER: a checkout of hotshotco/Hotshot-XL
    python -m sdxl_anime_video.benchmarks.training_step FOLDER \\
        --size sdxl --resolution 512 --device cuda --checkpointing

Both train their temporal layers in a frozen SDXL UNet of the same widths with random weights, on latents that are there
already: one clip a step, Min-SNR, AdamW, the norm of the gradient bounded. Ours is `Trainer.train_step`. Theirs is
their UNet with the step of their script: noise with an offset, loss, accelerate's backward pass and optimizer. Their
VAE and text encoders, which they run in every step, are left out. In half precision each holds its base as its
program does: ours in halves, theirs in fp32 under autocast.

Every round is a process of its own, and the two take turns. On a CPU `seconds` are the processor's, all threads
together, which other programs do not change, and `memory` is how far the process grew beyond its libraries; on a GPU
they are the clock's, and the peak of its tensors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNET = Path(__file__).parents[1] / "temporal/hosts/diffusers/sdxl/unet/config.json"
MODULE = "sdxl_anime_video.benchmarks.training_step"
SMALL = {
    "block_out_channels": [64, 128, 256],
    "attention_head_dim": [1, 2, 4],
    "transformer_layers_per_block": [1, 1, 2],
    "cross_attention_dim": 256,
}
POOLED, TOKENS = 1280, 77
Step = Callable[[], Any]


def unet_config(size: str) -> dict[str, Any]:
    """SDXL's own, or one of the same shape with less of everything."""
    config = json.loads(UNET.read_text(encoding="utf-8"))
    return config if size == "sdxl" else {**config, **SMALL}


def filled(kind: Any, config: dict[str, Any], device: Any, dtype: Any) -> Any:
    """A UNet of random weights that keep the size of what goes through; made in place, for SDXL's is large."""
    import torch

    with torch.device("meta"):
        unet = kind.from_config(config)
    torch.nn.Module.to(unet, dtype)  # past diffusers' own, which warns of nothing
    unet = unet.to_empty(device=device).requires_grad_(False)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5)
            else:
                value.fill_(float(name.endswith("weight")))
        for value in unet.buffers():
            value.normal_()
    return unet


def ours(options: argparse.Namespace) -> tuple[Step, int]:
    """Our step, and how many parameters it trains."""
    import torch
    from diffusers import UNet2DConditionModel

    from ..commands.precision import arithmetic
    from ..schedulers.best_hq import training_sigmas
    from ..temporal.hosts.diffusers.base import Base
    from ..training.clips.source import Clips
    from ..training.config.train import TrainConfig
    from ..training.run.trainer import Trainer

    config = unet_config(options.size)
    dtype = arithmetic(options.device, options.precision)
    unet = filled(UNet2DConditionModel, config, options.device, dtype)
    sigmas = training_sigmas(0.00085, 0.012, "scaled_linear", 1000)
    base = Base(unet, None, lambda captions: None, sigmas, "epsilon", {})
    side, width = options.resolution // 8, config["cross_attention_dim"]
    latents = torch.randn(options.frames, 4, side, side).half()
    clips = Clips([latents], [1], torch.randn(2, TOKENS, width), torch.randn(2, POOLED), ["random"], 12.0)
    trainer = Trainer(
        TrainConfig(
            clips=Path("random"),
            output=Path("nowhere"),
            frames=[options.frames],
            clips_per_step=1,
            steps=10**6,
            gradient_checkpointing=options.checkpointing,
            precision=options.precision,
            device=options.device,
        ),
        base,
        clips,
    )
    return trainer.train_step, sum(p.numel() for p in trainer.layers.parameters())


def import_hotshot(folder: Path) -> Any:
    """Hotshot-XL's UNet class. It was written for diffusers 0.21; two names have moved since."""
    import warnings

    from diffusers.models import lora, resnet
    from diffusers.models.transformers import transformer_2d

    warnings.filterwarnings("ignore", category=FutureWarning)  # diffusers' own, about an argument without effect
    sys.modules["diffusers.models.transformer_2d"] = transformer_2d
    resnet.LoRACompatibleConv = lora.LoRACompatibleConv
    sys.path.insert(0, str(folder))
    from hotshot_xl.models.unet import UNet3DConditionModel

    return UNet3DConditionModel


def theirs(options: argparse.Namespace) -> tuple[Step, int]:
    """The step of Hotshot-XL's script, and how many parameters it trains."""
    import torch
    from accelerate import Accelerator
    from diffusers import DDPMScheduler

    from ..commands.precision import arithmetic

    config = unet_config(options.size)
    for field in ("down_block_types", "up_block_types"):
        config[field] = [name.replace("2D", "3D") for name in config[field]]
    config.update(mid_block_type="UNetMidBlock3DCrossAttn", _class_name="UNet3DConditionModel")
    dtype = arithmetic(options.device, options.precision)
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")
    accelerator = Accelerator(mixed_precision=mixed, cpu=options.device == "cpu")
    unet = filled(import_hotshot(options.hotshot), config, options.device, torch.float32).train()
    trained = unet.temporal_parameters()
    for parameter in trained:
        parameter.requires_grad_(True)
    for block in (*unet.down_blocks, *unet.up_blocks):  # diffusers' switch for it asks for another signature now
        block.gradient_checkpointing = options.checkpointing
    unet, optimizer = accelerator.prepare(unet, torch.optim.AdamW(trained, lr=5e-6, weight_decay=1e-2))
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    side, device = options.resolution // 8, accelerator.device
    latents = torch.randn(1, 4, options.frames, side, side, device=device)
    tokens = torch.randn(1, TOKENS, config["cross_attention_dim"], device=device)
    sizes = torch.tensor([[options.resolution, options.resolution, 0, 0] + 2 * [options.resolution]], device=device)
    added = {"text_embeds": torch.randn(1, POOLED, device=device), "time_ids": sizes}

    def step() -> float:
        noise = torch.randn_like(latents) + 0.05 * torch.randn(1, 4, 1, 1, 1, device=device)
        time = torch.randint(0, len(schedule.alphas_cumprod), (1,), device=device)
        noisy = schedule.add_noise(latents, noise, time).requires_grad_(True)
        found = unet(noisy, time, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False)[0]
        alpha = schedule.alphas_cumprod.to(device)[time]
        snr = alpha / (1 - alpha)
        loss = ((found.float() - noise).square().mean() * snr.clamp(max=5.0) / snr).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, sum(parameter.numel() for parameter in trained)


def one_round(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a step, bytes at the peak, and parameters trained; one step that is not timed comes first."""
    import resource

    import diffusers  # noqa: F401
    import torch

    gpu = options.device.startswith("cuda")
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step, trained = {"ours": ours, "theirs": theirs}[options.side](options)
    step()
    clock = time.perf_counter if gpu else time.process_time
    times = []
    for _ in range(options.steps):
        began = clock()
        step()
        if gpu:
            torch.cuda.synchronize()
        times.append(clock() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries) * 1024
    peak = torch.cuda.max_memory_allocated() if gpu else grown
    return {"seconds": statistics.median(times), "memory": peak, "trained": trained}


def rounds(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What each side's rounds found. Raises CalledProcessError where one failed, which has said why."""
    from rich.console import Console
    from rich.progress import track

    sides = ["ours", *(["theirs"] if options.hotshot else [])]
    turns = [side for turn in range(options.rounds) for side in sides[:: 1 if turn % 2 == 0 else -1]]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for side in track(turns, "rounds", console=Console(stderr=True), transient=True):
        command = [sys.executable, "-m", MODULE, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[side].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Medians over the rounds, with the range of the seconds, and ours over theirs."""
    names = {"ours": "ours", "theirs": "Hotshot-XL"}
    lines = ["| | seconds a step | range | steps a second | memory | trained |", "|---|---|---|---|---|---|"]
    medians = {}
    for side, results in found.items():
        seconds = [one["seconds"] for one in results]
        medians[side] = middle, memory = statistics.median(seconds), statistics.median(o["memory"] for o in results)
        lines.append(
            f"| {names[side]} | {middle:.3f} | {min(seconds):.3f} to {max(seconds):.3f} | {1 / middle:.3f} | "
            f"{memory / 1e9:.2f} GB | {results[0]['trained'] / 1e6:.1f} M |"
        )
    if "theirs" in medians:
        time_ratio, memory_ratio = (a / b for a, b in zip(medians["ours"], medians["theirs"], strict=True))
        lines.append(f"| ours / Hotshot-XL | {time_ratio:.2f} | | {1 / time_ratio:.2f} | {memory_ratio:.2f} | |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hotshot", type=Path, nargs="?", help="checkout of Hotshot-XL; without it only ours runs")
    parser.add_argument("--size", choices=["small", "sdxl"], default="small")
    parser.add_argument("--resolution", type=int, default=128, help="side of a frame in pixels")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="that are timed in a round")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hotshot and not (options.hotshot / "hotshot_xl/models/unet.py").is_file():
        parser.error(f"{options.hotshot} is no checkout of Hotshot-XL: it has no hotshot_xl/models/unet.py")
    if options.resolution % 32:
        parser.error(f"--resolution {options.resolution} is no multiple of 32, by which an SDXL UNet divides a picture")
    if options.side:
        sys.stdout.write(json.dumps(one_round(options)) + "\n")
        return 0
    try:
        sys.stdout.write(table(rounds(options)))
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"error: a round of {error.cmd[-1]} ended with status {error.returncode}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
