"""Caches for tests: a small run of `prepare`, and all that a cache holds."""

from pathlib import Path

import lance
import numpy as np
import pyarrow.parquet

from sdxl_anime_video.training.prepare.verb import main

SMALL = ["--checkpoint", "toon", "--resolution", "64", "--frames", "8", "--min-frames", "4"]


def run(videos, cache, *options) -> int:
    return main([str(videos), "-o", str(cache), *SMALL, *map(str, options)])


def manifest(cache: Path) -> list[dict]:
    return pyarrow.parquet.read_table(cache / "manifest.parquet").to_pylist()


def reasons(cache: Path) -> dict[str, str]:
    """Id of each dropped clip, and why."""
    return {row["id"]: row["reason"] for row in manifest(cache) if not row["kept"]}


def content(cache: Path) -> dict:
    """The manifest, and latents and embeddings by name; whatever order they were written in."""
    clips = lance.dataset(str(cache / "clips.lance")).to_table().to_pylist()
    texts = lance.dataset(str(cache / "captions.lance")).to_table().to_pylist()
    assert len({row["id"] for row in clips}) == len(clips)  # nothing twice
    assert len({row["key"] for row in texts}) == len(texts)
    return {
        "manifest": manifest(cache),
        "clips": {row["id"]: row for row in clips},
        "texts": {row["key"]: row for row in texts},
    }


def latents(row: dict, part: str = "mean", factor: int = 8) -> np.ndarray:
    """fp16 [F, 4, h, w] of a row of `content`."""
    return np.frombuffer(row[part], np.float16).reshape(
        row["frames"], 4, row["height"] // factor, row["width"] // factor
    )
