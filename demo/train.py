"""`python -m sdxl_anime_video.demo.train vae|base`: makes demo/weights/toon_base.safetensors from nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .data import painted_frames
from .model import WEIGHTS, TextStack, load_toon_diffusers, new_unet, save_toon
from .painter import HELD_OUT, TRAIN
from .sample import decode, grid, sample_latents
from .train_base import Base, train_base
from .train_vae import encode, train_vae


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


def run_base(options: argparse.Namespace) -> None:
    """Train UNet and text towers on latents of the autoencoder in the file."""
    import cv2

    torch.manual_seed(options.seed)
    _, vae, _ = load_toon_diffusers(options.output)
    notes = _metadata(options.output)
    frames, _, captions = painted_frames(options.frames, options.seed + 1, options.cache)
    stored = options.cache / f"latents-{options.frames}-{options.seed}-{notes.get('vae_steps')}.pt"
    if not stored.exists():
        _say(f"encoding {len(frames)} frames")
        torch.save(encode(vae, frames).half(), stored)
    latents = torch.load(stored, weights_only=True)
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
        seed=options.seed,
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        say=_say,
        show=show,
    )
    save_toon(base.unet, vae, base.text, {**notes, **new, "base_command": options.command}, options.output)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sdxl_anime_video.demo.train", description=__doc__)
    parser.add_argument("what", choices=("vae", "base"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--frames", type=int, default=None, help="painted frames (default 8000 for vae, 16000 for base)"
    )
    parser.add_argument("--steps", type=int, default=None, help="training steps (default 3000 for vae, 6000 for base)")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time even if steps are left")
    parser.add_argument("--batch", type=int, default=32, help="latents a step (base only)")
    parser.add_argument("--cache", type=Path, default=Path("outputs/toon"), help="painted frames, checkpoints, samples")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="weights file to write")
    options = parser.parse_args(arguments)
    options.frames = options.frames or {"vae": 8000, "base": 16000}[options.what]
    options.steps = options.steps or {"vae": 3000, "base": 6000}[options.what]
    told = {"seed": options.seed, "frames": options.frames, "steps": options.steps, "minutes": options.minutes}
    told |= {"batch": options.batch} if options.what == "base" else {}
    flags = " ".join(f"--{name} {value}" for name, value in told.items() if value is not None)
    options.command = f"python -m sdxl_anime_video.demo.train {options.what} {flags}"
    options.cache.mkdir(parents=True, exist_ok=True)
    {"vae": run_vae, "base": run_base}[options.what](options)


if __name__ == "__main__":
    main()
