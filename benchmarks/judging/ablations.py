"""Short trainings of the toon adapter, each with one thing changed.

    python -m sdxl_anime_video.benchmarks.judging.ablations

Each variant trains by the `train` verb for the same number of steps; then its adapter is measured on clips that were
kept out (loss over that of the base without an adapter, under two kinds of noise) and on clips rendered for held-out
captions. A run that was stopped goes on. Slow: minutes a variant.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...demo.judge import Judge, mean_scores
from ...files import write_whole
from ...temporal.measure.figures import markdown_table
from ..arguments import whole
from .arms import held_out_pairs, report, say
from .evaluate import Arm, Sampler

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "toon.yaml"
UNLEARNT = ["--position-learning-rate", "null"]  # a motion module's positions
EVEN = ["--noise-curriculum", "[]"]
VARIANTS: dict[str, list[str]] = {
    "as the config": [],
    "independent noise": [*EVEN, "--noise-correlation", "0"],
    "correlated from the start": EVEN,
    "alike, then freer": [
        *("--noise-curriculum", "[{until: 0.33, correlation: 0.9}, {until: 0.67, correlation: 0.5}]"),
        *("--noise-correlation", "0"),
    ],
    "independent, then shared": ["--noise-mode", "shared"],
    "frames 8, 12, 16 anywhere": ["--frames", "[8, 12, 16]", "--random-positions", "true"],
    "16 frames anywhere": ["--random-positions", "true"],
    "temporal dropout 0.2": ["--temporal-dropout", "0.2"],
    "no LayerNorm": ["--norm", "false"],
    "gate instead of zero proj": ["--init", "gate", "--gate-learning-rate", "1e-2"],
    "no moving average": ["--ema", "0"],
    "no positions on values": ["--pos-value", "false"],
    "motion module": ["--kind", "animatediff", *UNLEARNT],
    "motion module of the same size": [
        *("--kind", "animatediff", "--motion-places", "[up.0.0, up.1.0]", "--motion-attentions", "1", *UNLEARNT)
    ],
    "AdamW": ["--optimizer", "adamw", "--learning-rate", "1e-3", "--position-learning-rate", "2e-3"],
}
PLAIN = {"ema": 0.0, "noise_curriculum": [], "resume": None}
NOISES = {"loss, independent": ("shared", 0.0), "loss, progressive 0.5": ("progressive", 0.5)}
ARMS = {"": "adapter", "p ": "adapter + progressive 0.5"}
RENDERED = ("warp_error", "coverage", "identity_drift", "limb_ratio", "jerkiness")


def train(folder: Path, changes: list[str], steps: int) -> Path:
    """The weights of the config with these changes; trained, or finished, if they are not there yet."""
    adapter = folder / ("motion_module.safetensors" if "--kind" in changes else "adapter.safetensors")
    if not adapter.exists():
        command = [sys.executable, "-m", "sdxl_anime_video", "train", str(CONFIG), "--resume", "latest"]
        settings = ["--output", str(folder), "--steps", str(steps), "--validation-steps", str(steps), *changes]
        subprocess.run([*command, *settings], check=True)
    return adapter


class HeldOut:
    """The loss of the config's held-out clips."""

    def __init__(self) -> None:
        from ...commands.overrides import read_config
        from ...temporal.hosts.diffusers.base import load_base
        from ...training.clips.folder import load_clips
        from ...training.config.train import TrainConfig

        self.config = read_config(CONFIG, PLAIN, TrainConfig)
        self.base = load_base("toon")
        self.clips = load_clips(
            self.config.clips,
            self.base,
            self.config.resolution,
            self.config.precision,
            shortest=min(self.config.frames),
        )
        self.silent = {name: self.loss(name, None) for name in NOISES}

    def loss(self, noise: str, adapter: Path | None) -> float:
        """Mean loss under a kind of noise, with an adapter or without."""
        from ...commands.overrides import read_config
        from ...temporal.weights.formats import load_layers
        from ...training.config.train import TrainConfig
        from ...training.run.trainer import Trainer

        mode, correlation = NOISES[noise]
        given: dict[str, Any] = {"noise_mode": mode, "noise_correlation": correlation, "noise_probability": 1.0}
        config = read_config(adapter.with_name("config.yaml") if adapter else CONFIG, {**PLAIN, **given}, TrainConfig)
        trainer = Trainer(config, self.base, self.clips)
        try:
            if adapter:
                trainer.layers.load_state_dict(load_layers(adapter).state_dict())
            return trainer.validate()["validation"]
        finally:
            trainer.unet.detach()

    def ratios(self, adapter: Path) -> dict[str, float]:
        """Loss with the adapter over that without, by noise."""
        return {name: self.loss(name, adapter) / silent for name, silent in self.silent.items()}


def rendered(adapter: Path | None, pairs: int, steps: int, cfg: float, arms: dict[str, str]) -> dict[str, float]:
    """Mean figures of clips of held-out captions, one set for each arm."""
    sampler = Sampler(adapter, frames=16, size=128, steps=steps, cfg=cfg)
    found: dict[str, float] = {}
    for prefix, arm in arms.items():
        judged = [
            Judge(caption).scores(sampler.clip(Arm.parse(arm), caption, seed))
            for caption, seed in held_out_pairs(pairs)
        ]
        means = mean_scores(judged)
        found |= {prefix + name: means[name] for name in RENDERED}
    return found


def run(options: argparse.Namespace) -> str:
    """Train and measure what has no figures yet; results.json and table.md hold all that has. Returns the table."""
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "results.json"
    found: dict[str, dict[str, float]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    held_out = None
    for number, name in enumerate(options.variants, 1):
        if name in found:
            continue
        say(f"{number}/{len(options.variants)} {name}")
        adapter = train(options.output / name.replace(" ", "_").replace(",", ""), VARIANTS[name], options.steps)
        held_out = held_out or HeldOut()
        found[name] = held_out.ratios(adapter) | rendered(adapter, options.pairs, options.sampler_steps, 3.0, ARMS)
        write_whole(results, json.dumps(found, indent=1))
        columns = [*NOISES, *(prefix + figure for prefix in ARMS for figure in RENDERED)]
        write_whole(options.output / "table.md", markdown_table(found, columns))
    return (options.output / "table.md").read_text(encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdxl_anime_video.benchmarks.judging.ablations", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=whole(1), default=150, help="training steps of each")
    parser.add_argument("--pairs", type=whole(1), default=6, help="held-out caption/seed pairs to render")
    parser.add_argument("--sampler-steps", type=whole(1, 1000), default=12)
    parser.add_argument("--threads", type=whole(1), default=None)
    options = parser.parse_args(arguments)
    return report(lambda: run(options), options.threads, subprocess.CalledProcessError)


if __name__ == "__main__":
    sys.exit(main())
