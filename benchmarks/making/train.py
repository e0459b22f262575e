"""`python -m sdxl_anime_video.benchmarks.making.train vae|base|controlnet|lcm`: makes the files in demo/weights.

vae and base make toon_base.safetensors from nothing; controlnet and lcm make a ControlNet and a LoRA for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...demo.hints import KINDS
from ...demo.model import WEIGHTS, TextStack, load_toon_diffusers, new_unet, save_toon
from ...demo.painter import HELD_OUT, TRAIN
from ...files import whole_or_nothing
from .base import Base, train_base
from .controlnet import Controlled, as_hints, save_controlnet, train_controlnet
from .data import painted_frames
from .lcm import sample_lcm, save_lora, train_lcm
from .sample import decode, grid, sample_latents
from .vae import encode, train_vae


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        return stored.metadata() or {}


def run_vae(options: argparse.Namespace) -> None:
    """Train the autoencoder; UNet and towers of an existing file are kept, else random."""
    frames, importance, _ = painted_frames(options.frames, options.seed, options.cache)
    checkpoint = options.cache / f"vae-{options.seed}.ckpt"
    vae, notes = train_vae(
        (frames, importance), checkpoint, seed=options.seed, steps=options.steps, minutes=options.minutes, say=_say
    )
    torch.manual_seed(options.seed)
    unet, text, old = new_unet(), TextStack(), {}
    if options.output.exists():
        unet, _, text = load_toon_diffusers(options.output)
        old = _metadata(options.output)
    save_toon(unet, vae, text, {**old, **notes, "vae_command": options.command}, options.output)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What every training on latents is told."""
    return {name: getattr(options, name) for name in ("seed", "steps", "minutes", "batch")} | {"say": _say}


def _latents(options: argparse.Namespace, name: str, vae: Any, frames: np.ndarray) -> torch.Tensor:
    """Latents fp16 `[N,4,h,w]` of painted frames by the autoencoder in the weights file; encoded once, then read."""
    steps = _metadata(options.output if options.what == "base" else WEIGHTS).get("vae_steps")
    stored = options.cache / f"{name}-{options.frames}-{options.seed}-{steps}.pt"
    if not stored.exists():
        _say(f"encoding {len(frames)} frames")
        with whole_or_nothing(stored) as part:
            torch.save(encode(vae, frames).half(), part)
    return torch.load(stored, weights_only=True)


def run_base(options: argparse.Namespace) -> None:
    """Train UNet and text towers on latents of the autoencoder in the file."""
    import cv2

    torch.manual_seed(options.seed)
    _, vae, _ = load_toon_diffusers(options.output)
    notes = _metadata(options.output)
    frames, _, captions = painted_frames(options.frames, options.seed + 1, options.cache)
    latents = _latents(options, "latents", vae, frames)
    del frames
    shown = [TRAIN[i * 97 % len(TRAIN)] for i in range(8)] + [HELD_OUT[i * 29 % len(HELD_OUT)] for i in range(8)]

    def show(base: Base, step: int) -> None:
        save_toon(
            base.unet,
            vae,
            base.text,
            {**notes, "base_steps": str(step), "base_command": options.command},
            options.output,
        )
        pictures = decode(vae, sample_latents(base.unet, base.text, shown, seed=0))
        cv2.imwrite(str(options.cache / f"base-{step:06d}.png"), grid(pictures, 8)[..., ::-1])

    base, new = train_base(
        latents,
        captions,
        options.cache / f"base-{options.seed}.ckpt",
        show=show,
        **_settings(options),
    )
    save_toon(base.unet, vae, base.text, {**notes, **new, "base_command": options.command}, options.output)


def run_controlnet(options: argparse.Namespace) -> None:
    """Train a ControlNet for the base that comes with the pack."""
    import cv2

    unet, vae, text = load_toon_diffusers()
    frames, hints, captions = painted_frames(options.frames, options.seed + 2, options.cache, hint=options.hint)
    latents = _latents(options, f"latents-{options.hint}", vae, frames)
    about = {"title": f"toon world ControlNet, {options.hint}", "hint": options.hint, "command": options.command}
    shown = slice(0, len(frames), max(1, len(frames) // 8))
    wanted = hints[shown][:8]

    def show(network: Any, step: int) -> None:
        save_controlnet(network, {**about, "steps": str(step)}, options.output)
        controlled = Controlled(unet, network, as_hints(wanted))
        pictures = decode(vae, sample_latents(controlled, text, captions[shown][:8], seed=0, steps=12))
        sheet = grid(np.concatenate([frames[shown][:8], wanted, pictures]), 8)
        cv2.imwrite(str(options.cache / f"{options.hint}-{step:06d}.png"), sheet[..., ::-1])

    network, notes = train_controlnet(
        (unet, text),
        (latents, hints, captions),
        options.cache / f"controlnet-{options.hint}-{options.seed}.ckpt",
        show=show,
        **_settings(options),
    )
    save_controlnet(network, {**about, **notes}, options.output)


def run_lcm(options: argparse.Namespace) -> None:
    """Train an LCM LoRA for the base that comes with the pack."""
    import cv2

    unet, vae, text = load_toon_diffusers()
    frames, _, captions = painted_frames(options.frames, options.seed + 1, options.cache)
    latents = _latents(options, "latents", vae, frames)
    about = {"title": "toon world LCM LoRA", "command": options.command}
    shown = [HELD_OUT[i * 29 % len(HELD_OUT)] for i in range(8)]
    many = decode(vae, sample_latents(unet, text, shown, seed=0))

    def show(student: Any, step: int) -> None:
        save_lora(student, {**about, "steps": str(step)}, options.output)
        few = [decode(vae, sample_lcm(student, text, shown, seed=0, cfg=cfg)) for cfg in (1.0, 1.7)]
        cv2.imwrite(str(options.cache / f"lcm-{step:06d}.png"), grid(np.concatenate([many, *few]), 8)[..., ::-1])

    student, notes = train_lcm(
        (unet, text),
        (latents, captions),
        options.cache / f"lcm-{options.seed}.ckpt",
        show=show,
        **_settings(options),
    )
    save_lora(student, {**about, **notes}, options.output)


# What each part is made by, with how many painted frames and steps unless the command line says otherwise.
_PARTS = {
    "vae": (run_vae, 8000, 3000),
    "base": (run_base, 16000, 6000),
    "controlnet": (run_controlnet, 6000, 2000),
    "lcm": (run_lcm, 4000, 2000),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sdxl_anime_video.benchmarks.making.train", description=__doc__)
    parser.add_argument("what", choices=tuple(_PARTS))
    parser.add_argument("--seed", type=int, default=1)
    frames, steps = (", ".join(f"{part[i]} for {name}" for name, part in _PARTS.items()) for i in (1, 2))
    parser.add_argument("--frames", type=int, default=None, help=f"painted frames (default {frames})")
    parser.add_argument("--steps", type=int, default=None, help=f"training steps (default {steps})")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time even if steps are left")
    parser.add_argument("--batch", type=int, default=32, help="latents a step (not vae)")
    parser.add_argument("--hint", choices=KINDS, default="pose", help="what a ControlNet is shown")
    parser.add_argument("--cache", type=Path, default=Path("outputs/toon"), help="painted frames, checkpoints, samples")
    parser.add_argument("--output", type=Path, default=None, help="weights file to write (default: in demo/weights)")
    options = parser.parse_args(arguments)
    run, frames, steps = _PARTS[options.what]
    options.frames, options.steps = options.frames or frames, options.steps or steps
    companion = WEIGHTS.parent / "controlnet" / "toon" / f"toon_{options.hint}.safetensors"
    lora = WEIGHTS.parent / "loras" / "toon" / "toon_lcm.safetensors"
    options.output = options.output or {"controlnet": companion, "lcm": lora}.get(options.what, WEIGHTS)
    told = {"seed": options.seed, "frames": options.frames, "steps": options.steps, "minutes": options.minutes}
    told |= {"batch": options.batch} if options.what != "vae" else {}
    told |= {"hint": options.hint} if options.what == "controlnet" else {}
    flags = " ".join(f"--{name} {value}" for name, value in told.items() if value is not None)
    options.command = f"python -m sdxl_anime_video.benchmarks.making.train {options.what} {flags}"
    options.cache.mkdir(parents=True, exist_ok=True)
    run(options)


if __name__ == "__main__":
    main()
