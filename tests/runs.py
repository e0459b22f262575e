"""Small runs of the trainer for tests: painted clips, a config that takes seconds, and what a run has logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl_anime_video.benchmarks.making import paint_clips

SMALL = {"resolution": 64, "frames": [4], "clips_per_step": 1, "warmup_steps": 0, "device": "cpu", "threads": 1}


def painted_clips(folder: Path) -> Path:
    """Three painted clips of five frames in the folder."""
    assert paint_clips.main([str(folder), "--count", "3", "--frames", "5", "--size", "64"]) == 0
    return folder


def write_config(folder: Path, **fields: Any) -> Path:
    """A config file of a small run in the folder."""
    path = folder / "config.yaml"
    path.write_text(json.dumps({**SMALL, **fields}, default=str))
    return path


def events(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, steps that were done twice included."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
