"""`sdxl-anime-video train CONFIG.yaml [--field value ...]`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import ConfigError, TrainConfig, describe_fields, parse_overrides, read_config

if TYPE_CHECKING:
    from .base import Base
    from .data import ClipSource

USAGE = """usage: sdxl-anime-video train CONFIG.yaml [--field value ...]

Trains a temporal adapter on a folder of captioned clips. Fields of the config, all of which can be overridden here:
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. Errors of the user's making are one line on stderr."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + describe_fields() + "\n")
        return 0 if arguments else 2
    try:
        config = read_config(Path(arguments[0]), parse_overrides(arguments[1:]))
        train(config)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; go on with --resume latest\n")
        return 130
    return 0


def git_revision() -> str:
    """Short hash of the checkout that this program runs from, or `unknown`."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def train(config: TrainConfig) -> Path:
    """One run into `config.output`: config.yaml, log.jsonl, checkpoints, adapter.safetensors (returned)."""
    import torch
    import yaml

    from .base import load_base
    from .checkpoint import checkpoints
    from .data import load_clips
    from .loop import Trainer
    from .progress import Bars

    if config.resume is None and checkpoints(config.output):
        raise ConfigError(
            f"output: {config.output} holds checkpoints of an earlier run; go on with --resume latest, or give another "
            "folder"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    written = yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)
    (config.output / "config.yaml").write_text(written, encoding="utf-8")
    base = load_base(config.base)
    adapter = config.output / "adapter.safetensors"
    # Unbuffered: a full disk is met in report, which says where, and not once more when the file is closed.
    with Bars(config) as bars, (config.output / "log.jsonl").open("ab", buffering=0) as log:

        def report(event: dict[str, Any]) -> None:
            try:
                log.write(json.dumps(event).encode() + b"\n")
            except OSError as error:
                why = f"{error.strerror}; make room on the disk and go on with --resume latest"
                raise OSError(error.errno, why, log.name) from None
            bars.step(event)

        clips = load_clips(
            config.clips, base, config.resolution, config.precision, bars.encoded, shortest=min(config.frames)
        )
        bars.encoded(len(clips), len(clips))
        trainer = Trainer(config, base, clips, report)
        trainer.run()
        trainer.save(adapter, training_record(config, base, clips))
        bars.say(f"{adapter}: {trainer.step} steps in {trainer.seconds / 60:.1f} minutes")
    return adapter


def training_record(config: TrainConfig, base: Base, clips: ClipSource) -> dict[str, str]:
    """Metadata of an adapter: what it was trained on, and by which revision of this program."""
    sizes = {f"{width * base.factor}x{height * base.factor}" for height, width in clips.sizes}
    return {
        "trained_base": Path(config.base).name,
        "trained_dataset": config.dataset or config.clips.name,
        "trained_clips": str(len(clips)),
        "trained_fps": f"{clips.fps:g}",
        "trained_resolution": ", ".join(sorted(sizes)),
        "trained_revision": git_revision(),
    }


__all__ = ["ConfigError", "main", "train"]
