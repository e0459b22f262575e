"""What a LoRA for few steps keeps of many, and the time it saves.

    python -m sdxl_anime_video.benchmarks.judging.steps

Renders held-out captions in a real ComfyUI with the presets of Sampling Preset, the temporal adapter and correlated
noise, and judges the clips beside painted ones. An arm is a preset with its steps, with or without the LoRA:
`best_hq 28`, `lcm 5 + lora`; or `painted`. Writes table.md, results.json and sheet.png.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ...commands.config import at_field
from ...demo.judge import Judge
from ...demo.painter import paint_clip
from ...media.sheets import contact_sheet
from ...schedulers.presets import PRESETS
from ..arguments import number, whole
from .arms import Results, arms_parser, held_out_pairs, say
from .in_comfyui import TOON, add_arguments, report_in_comfyui, temporal_layers, with_progressive_noise

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
        with at_field(f"arm {text!r}"):
            self.preset, self.steps, self.lora = words[0], whole(1, 1000)(words[1]), bool(plus)


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

        from ...temporal.hosts.comfy.presets import prepared

        options = self.options
        noisy = with_progressive_noise(self.models[arm.lora], options.correlation)
        model, sampler, sigmas = prepared(noisy, arm.preset, arm.steps)
        prompts = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (caption, "")]
        latent = torch.zeros(options.frames, 4, 16, 16)
        start, began = comfy.sample.prepare_noise(latent, seed), time.monotonic()
        samples = comfy.sample.sample_custom(
            model, start, options.cfg[arm.lora], sampler, sigmas, *prompts, latent, disable_pbar=True, seed=seed
        )
        took = time.monotonic() - began
        return self.vae.decode(samples).cpu().float().numpy(), took


def parse_arms(options: argparse.Namespace) -> dict[str, Arm | None]:
    """The arms by their texts; None for the painted clip. Raises ValueError for a text that is no arm."""
    return {text: None if text == PAINTED else Arm(text) for text in options.arms}


def run(options: argparse.Namespace, arms: dict[str, Arm | None]) -> str:
    """Render and judge every caption by every arm; write the files; return the table."""
    results = Results(options.output, arms, COLUMNS)
    renderer = Renderer(options)
    settings = {name: str(value) for name, value in vars(options).items()}
    pairs, table = held_out_pairs(options.pairs, options.seed), ""
    sheet: list[tuple[str, np.ndarray]] = []
    for i, (caption, seed) in enumerate(pairs):
        painted = paint_clip(caption, options.frames, 128, seed).frames / np.float32(255)
        judge = Judge(caption, options.frames)
        for text, arm in arms.items():
            clip, took = renderer.render(arm, caption, seed) if arm else (painted, float("nan"))
            results.each[text].append({**judge.scores(clip), "seconds": took, "detail": detail(clip) / detail(painted)})
            if i < options.shown:
                sheet.append((text, clip))
        say(f"{i + 1}/{len(pairs)} {caption}")
        table = results.write(results.means(), pairs=pairs[: i + 1], settings=settings)
        contact_sheet(sorted(sheet, key=lambda row: list(arms).index(row[0])), side=128).save(
            options.output / "sheet.png"
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = arms_parser("steps", __doc__, output="outputs/evaluation_steps", arms=DEFAULT_ARMS, pairs=12)
    add_arguments(parser)
    parser.add_argument("--lora", type=Path, default=TOON / "loras/toon/toon_lcm.safetensors")
    parser.add_argument("--weight", type=number(-10, 10), default=1.0, help="of the LoRA")
    parser.add_argument("--cfg", type=number(0, 100), nargs=2, default=[3.0, 1.0], help="without and with the LoRA")
    options = parser.parse_args(arguments)
    make = "python -m sdxl_anime_video.benchmarks.making.train lcm"
    return report_in_comfyui(options, parse_arms, run, options.lora, make)


if __name__ == "__main__":
    sys.exit(main())
