"""What a LoRA for few steps keeps of many, and the time it saves.

    python -m sdxl_anime_video.benchmarks.judging.steps

Renders held-out captions in a real ComfyUI with the presets of Sampling Preset, the temporal adapter and correlated
noise, and judges the clips beside painted ones. An arm is a preset with its steps, with or without the LoRA:
`best_hq 28`, `lcm 5 + lora`; or `painted`. Writes table.md, results.json and sheet.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...demo.painter import paint_clip
from ...files import write_whole
from ...media.sheets import contact_sheet
from ...schedulers.presets import PRESETS
from ..arguments import number, whole
from .evaluate import held_out_pairs
from .in_comfyui import TOON, add_arguments, evaluate, temporal_layers
from .judge import Judge, mean_scores, table

PAINTED = "painted"
DEFAULT_ARMS = (PAINTED, "best_hq 28", "best_hq 6", "lcm 6", "lcm 6 + lora", "lcm 5 + lora", "lcm 4 + lora")
COLUMNS = ("seconds", "detail", "limbs_seen", "warp_error", "identity_drift", "limb_ratio", "jerkiness", "flicker")


class Arm:
    """A preset, its steps, and whether the LoRA is on."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is none of: PRESET STEPS, PRESET STEPS + lora."""
        first, plus, rest = (part.strip() for part in text.partition("+"))
        words = first.split()
        if len(words) != 2 or words[0] not in PRESETS or (plus and rest != "lora"):
            raise ValueError(f"arm {text!r} is none of: {PAINTED}, PRESET STEPS, PRESET STEPS + lora")
        try:
            self.preset, self.steps, self.lora = words[0], whole(1, 1000)(words[1]), bool(plus)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"arm {text!r}: {error}") from None


def detail(clip: np.ndarray) -> float:
    """Mean difference of neighbouring pixels of a clip `[F, H, W, 3]`: what blurring takes away."""
    return float(np.abs(np.diff(clip, axis=1)).mean() + np.abs(np.diff(clip, axis=2)).mean())


class Renderer:
    """The toon model with the adapter, with and without the LoRA; `import_comfyui` must have been called."""

    def __init__(self, options: argparse.Namespace) -> None:
        from ...demo.comfy import load_toon_comfy
        from ...temporal.hosts.comfy.loras import apply_lora, check_fit
        from ...temporal.lora.file import describe
        from ...temporal.weights.header import read_header

        self.options = options
        plain, clip, self.vae = load_toon_comfy()
        try:
            check_fit(plain, clip, describe(read_header(options.lora)))
            quick, _ = apply_lora(plain, clip, options.lora, options.weight, 0.0)
        except ValueError as error:
            raise ValueError(f"{options.lora} {error}") from None
        layered = temporal_layers(options.adapter)
        self.models = {False: layered(plain), True: layered(quick)}
        self.clip = clip

    @torch.no_grad()
    def render(self, arm: Arm, caption: str, seed: int) -> tuple[np.ndarray, float]:
        """A clip `[F, 128, 128, 3]`, 0..1, and the seconds that its sampling took."""
        import comfy.sample

        from ...temporal.clip.contract import NoiseSettings
        from ...temporal.hosts.comfy.presets import prepared
        from ...temporal.hosts.comfy.sampling.wrapper import record

        options = self.options
        noise = NoiseSettings("progressive", options.correlation)
        noisy = record(self.models[arm.lora], lambda contract: contract.with_noise(noise))
        model, sampler, sigmas = prepared(noisy, arm.preset, arm.steps)
        prompts = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (caption, "")]
        latent = torch.zeros(options.frames, 4, 16, 16)
        start, began = comfy.sample.prepare_noise(latent, seed), time.monotonic()
        samples = comfy.sample.sample_custom(
            model, start, options.cfg[arm.lora], sampler, sigmas, *prompts, latent, disable_pbar=True, seed=seed
        )
        took = time.monotonic() - began
        return self.vae.decode(samples).cpu().float().numpy(), took


def run(options: argparse.Namespace, say: Callable[[str], Any]) -> str:
    """Render and judge every caption by every arm; write the files; return the table."""
    arms = {text: None if text == PAINTED else Arm(text) for text in options.arms}
    options.output.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(options)
    each: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    shown: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
    pairs = held_out_pairs(options.pairs, options.seed)
    for i, (caption, seed) in enumerate(pairs):
        painted = paint_clip(caption, options.frames, 128, seed).frames / np.float32(255)
        judge = Judge(caption, options.frames)
        for text, arm in arms.items():
            clip, took = renderer.render(arm, caption, seed) if arm else (painted, float("nan"))
            each[text].append({**judge.scores(clip), "seconds": took, "detail": detail(clip) / detail(painted)})
            if len(shown[text]) < options.shown:
                shown[text].append(clip)
        say(f"{i + 1}/{len(pairs)} {caption}")
        means = {text: mean_scores(some) for text, some in each.items()}
        settings = {name: str(value) for name, value in vars(options).items()}
        results = {"pairs": pairs[: i + 1], "settings": settings, "mean": means, "each": each}
        write_whole(options.output / "results.json", json.dumps(results, indent=1))
        write_whole(options.output / "table.md", table(means, COLUMNS))
        rows = [(text, clip) for text, clips in shown.items() for clip in clips]
        contact_sheet(rows, side=128).save(options.output / "sheet.png")
    return table(means, COLUMNS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sdxl_anime_video.benchmarks.judging.steps", description=__doc__)
    add_arguments(parser, "outputs/evaluation_steps")
    parser.add_argument("--lora", type=Path, default=TOON / "loras/toon/toon_lcm.safetensors")
    parser.add_argument("--weight", type=number(-10, 10), default=1.0, help="of the LoRA")
    parser.add_argument("--arms", nargs="+", default=list(DEFAULT_ARMS))
    parser.add_argument("--cfg", type=number(0, 100), nargs=2, default=[3.0, 1.0], help="without and with the LoRA")
    options = parser.parse_args(arguments)
    try:
        for arm in set(options.arms) - {PAINTED}:
            Arm(arm)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return evaluate(options, run, options.lora, "python -m sdxl_anime_video.benchmarks.making.train lcm")


if __name__ == "__main__":
    sys.exit(main())
