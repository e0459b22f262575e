"""How far hints at every frame, and at keyframes, are followed.

    python -m sdxl_anime_video.benchmarks.judging.control

Renders held-out captions in a real ComfyUI with the toon ControlNet and the temporal adapter, with the hints of a clip
that the painter painted, and reads the pose back: the places of gloves and boots by their colours. An arm is
`no hints`, or keyframes as the node takes them, with a falloff if wanted: `all`, `0,25%,50%,75%,100%`,
`0,50%,100% linear 4`; only the hints of keyframes are given. The arm `painted` is the painted clip itself, `decoded`
the same through the VAE, which is what the reading itself gets wrong, and `held` shows the painted picture of the
nearest keyframe (of `--keyframes`). Writes table.md, results.json and sheet.png. Slow: a clip takes seconds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from ...commands.config import at_field
from ...demo.hints import KINDS, hint_pictures
from ...demo.judge import read_limbs
from ...demo.painter import BACKGROUNDS, LIMB_COLOURS, Clip, Spec, paint_clip
from ...media.sheets import contact_sheet
from ...temporal.clip.keyframes import keyframe_rows, picture_of_frame, strength_curve
from ...temporal.measure import metrics, paths
from ..arguments import number, whole
from .arms import Results, arms_parser, held_out_pairs, say
from .in_comfyui import TOON, add_arguments, report_in_comfyui, temporal_layers, with_progressive_noise

MAKE = "python -m sdxl_anime_video.benchmarks.making.train controlnet"
PAINTED, HELD, DECODED, NO_HINTS, FULL = "painted", "held", "decoded", "no hints", "all"
DEFAULT_ARMS = (PAINTED, DECODED, HELD, NO_HINTS, FULL, "0,25%,50%,75%,100%", "0,25%,50%,75%,100% linear 2")
COLUMNS = ("pose_error", "gap_closed", "at_keyframes", "between", "limbs_seen", "background_drift", "flicker")
MISS = 16.0
"""Pixels at 128 that a limb counts as off when it is not seen, or farther away than that."""
_SKY = 0.36  # of the frame, from its upper left corner: where the sun is


def pose_errors(clip: np.ndarray, truth: Clip) -> np.ndarray:
    """How far each limb is from where it is read in the painted clip, `[F, 4]` in pixels at 128, at most MISS.

    NaN where the painter shows nothing of the limb.
    """
    wanted, found = read_limbs(truth.frames), read_limbs(clip)
    scale = 128 / clip.shape[1]
    off = np.stack([np.linalg.norm(found[name] - wanted[name], axis=1) * scale for name in LIMB_COLOURS], 1)
    off = np.where(np.isfinite(off), off, MISS).clip(max=MISS)
    shown = np.stack([np.isfinite(wanted[name]).all(1) for name in LIMB_COLOURS], 1)
    return np.where(shown, off, np.nan)


def background_drift(clip: np.ndarray, background: str) -> float:
    """How far the sun or moon strays from its mean place, pixels at 128: it hardly moves in any painted clip."""
    height, width = clip.shape[1:3]
    sky = np.zeros((height, width), bool)
    sky[: round(_SKY * height), : round(_SKY * width)] = True
    sun = np.array(BACKGROUNDS[background][1]) / 255
    return paths.path_amplitude(paths.centroid_path(clip, sun, 0.15, region=sky)) * 128 / height


def scores(clip: np.ndarray, truth: Clip, keyframes: list[int]) -> dict[str, float]:
    """Figures of one clip `[F, H, W, 3]` beside the painted one that its hints come from."""
    off = pose_errors(clip, truth)
    others = [i for i in range(len(clip)) if i not in keyframes]
    return {
        "pose_error": float(np.nanmean(off)),
        "at_keyframes": float(np.nanmean(off[keyframes])),
        "between": float(np.nanmean(off[others])) if others else float("nan"),
        "limbs_seen": float(np.mean([paths.seen_share(path) for path in read_limbs(clip).values()])),
        "background_drift": background_drift(clip, Spec.parse(truth.caption).background),
        "flicker": metrics.flicker(clip),
    }


class Arm:
    """Which frames are steered, and how strongly. `curve` is None without hints."""

    def __init__(self, text: str, frames: int):
        """Raises ValueError for what is none of: no hints, KEYFRAMES, KEYFRAMES FALLOFF FRAMES."""
        self.curve: torch.Tensor | None = None
        if text in (PAINTED, HELD, DECODED, NO_HINTS):
            return
        words = text.split()
        if len(words) not in (1, 3):
            raise ValueError(f"arm {text!r}: write {NO_HINTS!r}, or keyframes, or keyframes with a falloff and frames")
        with at_field(f"arm {text!r}"):
            falloff, reach = (words[1], whole(1)(words[2])) if len(words) == 3 else ("none", 1)
            self.rows = keyframe_rows(words[0], frames)
        self.pictures = picture_of_frame(self.rows, frames, len(self.rows))
        self.curve = strength_curve(self.rows, frames, falloff, reach)


class Renderer:
    """The toon model, adapter and ControlNet in ComfyUI; `import_comfyui` must have been called."""

    def __init__(self, options: argparse.Namespace):
        import comfy.controlnet

        from ...demo.comfy import load_toon_comfy

        self.options = options
        model, self.clip, self.vae = load_toon_comfy()
        self.model = temporal_layers(options.adapter)(model)
        self.control_net = comfy.controlnet.load_controlnet(str(options.controlnet))
        if self.control_net is None:
            raise ValueError(f"{options.controlnet} holds no ControlNet; make one with {MAKE}")

    @torch.no_grad()
    def render(self, caption: str, seed: int, hints: np.ndarray, arm: Arm) -> np.ndarray:
        """A clip `[F, 128, 128, 3]`, 0..1; hints: uint8 `[F, H, W, 3]`."""
        import comfy.sample

        from ...temporal.hosts.comfy.conditioning.control import control_clip

        options = self.options
        model = with_progressive_noise(self.model, options.correlation)
        prompts: list = [self._encode(caption), self._encode("")]
        if arm.curve is not None:
            pictures = torch.from_numpy(hints[arm.rows]).float() / 255  # nothing else is known of the clip
            prompts = control_clip(
                prompts, self.control_net, pictures, arm.pictures, arm.curve, options.strength, (0.0, 1.0)
            )
        samples = torch.zeros(options.frames, 4, 16, 16)
        noise = comfy.sample.prepare_noise(samples, seed)
        for steps in (*([1] if options.first_look else []), options.steps):
            how = (steps, options.cfg, "dpmpp_2m", "karras")
            samples = comfy.sample.sample(model, noise, *how, *prompts, samples, seed=seed, disable_pbar=True)
        return self.vae.decode(samples).cpu().float().numpy()

    @torch.no_grad()
    def decoded(self, frames: np.ndarray) -> np.ndarray:
        """Painted frames uint8 `[F, H, W, 3]` through the VAE and back, 0..1."""
        pictures = torch.from_numpy(frames).float() / 255
        return self.vae.decode(self.vae.encode(pictures)).cpu().float().numpy()

    def _encode(self, text: str) -> list:
        tokens, pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
        return [[tokens, {"pooled_output": pooled}]]


def gap_closed(means: dict[str, dict[str, float]]) -> None:
    """Adds to each arm the share of the way from no hints to full hints that its pose error has gone."""
    none, full = (means.get(arm, {}).get("pose_error", np.nan) for arm in (NO_HINTS, FULL))
    for of in means.values():
        of["gap_closed"] = (none - of["pose_error"]) / (none - full) if none != full else float("nan")


def parse_arms(options: argparse.Namespace) -> dict[str, Arm]:
    """The arms by their texts. Raises ValueError for a text that is no arm."""
    return {text: Arm(text, options.frames) for text in options.arms}


def run(options: argparse.Namespace, arms: dict[str, Arm]) -> str:
    """Render and judge every caption by every arm; write the files; return the table."""
    with at_field("--keyframes"):
        keyframes = keyframe_rows(options.keyframes, options.frames)
    nearest = np.array(keyframes)[picture_of_frame(keyframes, options.frames, len(keyframes))]
    results = Results(options.output, arms, COLUMNS)
    renderer = Renderer(options)
    settings = {name: str(value) for name, value in vars(options).items()}
    pairs, table = held_out_pairs(options.pairs, options.seed), ""
    sheet: list[tuple[str, np.ndarray]] = []
    for i, (caption, seed) in enumerate(pairs):
        painted = paint_clip(caption, options.frames, 128, seed)
        hints = hint_pictures(painted, options.hint)
        for text, arm in arms.items():
            if text == PAINTED:
                clip = painted.frames / np.float32(255)
            elif text == HELD:
                clip = painted.frames[nearest] / np.float32(255)
            elif text == DECODED:
                clip = renderer.decoded(painted.frames)
            else:
                clip = renderer.render(caption, seed, hints, arm)
            results.each[text].append(scores(clip, painted, keyframes))
            if i < options.shown:
                sheet.append((text, clip))
            say(f"{i + 1}/{len(pairs)} {caption}: {text}, pose error {results.each[text][-1]['pose_error']:.2f} px")
        means = results.means()
        gap_closed(means)
        table = results.write(means, pairs=pairs[: i + 1], settings=settings)
        if i < options.shown:
            contact_sheet(sheet, options.frames, 128).save(options.output / "sheet.png")
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = arms_parser("control", __doc__, output="outputs/evaluation_control", arms=DEFAULT_ARMS, pairs=12)
    add_arguments(parser)
    parser.add_argument("--controlnet", type=Path, default=None, help="default: the pack's, for the hint")
    parser.add_argument("--hint", choices=KINDS, default="pose", help="what the ControlNet is shown")
    parser.add_argument("--keyframes", default="0,25%,50%,75%,100%", help="what at_keyframes and between refer to")
    parser.add_argument("--steps", type=whole(1, 1000), default=20)
    parser.add_argument(
        "--first-look", action="store_true", help="begin with what one step makes of the noise, under the same noise"
    )
    parser.add_argument("--cfg", type=number(0, 100), default=3.0)
    parser.add_argument("--strength", type=number(0, 10), default=1.0)
    options = parser.parse_args(arguments)
    options.controlnet = options.controlnet or TOON / "controlnet" / "toon" / f"toon_{options.hint}.safetensors"
    return report_in_comfyui(options, parse_arms, run, options.controlnet, MAKE)


if __name__ == "__main__":
    sys.exit(main())
