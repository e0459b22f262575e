"""Clips as .npz files: `latents` `[F, 4, H/8, W/8]`, scaled for the UNet, and `text_embeds` `[77, 2048]`.

Files of other programs may name them `text_embed`. Ours also hold `pooled_text_embeds` `[1280]`, which SDXL needs,
`caption`, `fps`, and the size conditioning `time_ids` `[6]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...files import whole_or_nothing
from ..clips.source import DataError
from ..clips.store import SIZES, Row, Store, Texts, text_key
from .options import PrepareConfig
from .reading.sources import Source


def read_clip(source: Source, config: PrepareConfig, factor: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of an .npz clip, cut to `frames` of the config. Raises DataError for a file of another kind."""
    with np.load(source.files[0], allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    latents, text = content.get("latents"), content.get("text_embeds", content.get("text_embed"))
    if latents is None or latents.ndim != 4 or latents.shape[1] != 4:
        raise DataError("no `latents` [frames, 4, height, width]")
    if text is not None and text.ndim == 3 and len(text) == 1:
        text = text[0]
    if text is not None and text.ndim != 2:
        raise DataError(f"`text_embeds` has shape {list(text.shape)}; expected [tokens, channels]")
    if not np.isfinite(latents.astype(np.float32)).all():
        raise DataError("`latents` holds NaN or infinite values; encode the clip again with the VAE in fp32 or bf16")
    height, width = (side * factor for side in latents.shape[2:])
    ids = content.get("time_ids", np.array([height, width, 0, 0, height, width])).astype(int).tolist()
    pooled = content.get("pooled_text_embeds")
    for first in range(0, len(latents), config.frames):
        some = latents[first : first + config.frames]
        short = len(some) < config.min_frames
        yield {
            **dict(zip(SIZES, (*ids[:4], height, width), strict=True)),
            "scene": 0,
            "start": first / float(content.get("fps", config.fps)),
            "fps": float(content.get("fps", config.fps)),
            "frames": len(some),
            "unique": "1" * len(some),
            "look": b"",
            "reason": f"short: {len(some)} frames, min_frames is {config.min_frames}" if short else "",
            "latents": np.ascontiguousarray(some, np.float32),
            "tokens": b"" if text is None else text.astype(np.float16).tobytes(),
            "pooled": b"" if pooled is None else pooled.astype(np.float16).reshape(-1).tobytes(),
        }


def write_clip(path: Path, latents: np.ndarray, text: np.ndarray, pooled: np.ndarray, **more: Any) -> None:
    """Write a clip: latents `[F, 4, h, w]` scaled for the UNet, text `[T, C]`, pooled `[P]`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part, part.open("wb") as file:
        np.savez(file, latents=latents, text_embeds=text, pooled_text_embeds=pooled, **more)


def export_npz(cache: Path, store: Store, rows: list[Row], folder: Path, sizes: dict[str, Any]) -> int:
    """Write every kept clip as an .npz file; return their number. Raises OSError."""
    texts, where = Texts(cache).open(), Texts(cache).rows()
    kept = [row for row in rows if not row["reason"]]
    for row in kept:
        clip = np.frombuffer(store.take(row["row"], ["mean"])["mean"], np.float16).astype(np.float32)
        side = (row["height"] // sizes["factor"], row["width"] // sizes["factor"])
        text = texts.take([where[text_key(row)]]).to_pylist()[0]
        write_clip(
            folder / (row["id"].replace("/", "_").replace("#", "_") + ".npz"),
            (clip * sizes["scaling_factor"]).reshape(row["frames"], 4, *side),
            np.frombuffer(text["tokens"], np.float16).reshape(sizes["tokens"]),
            np.frombuffer(text["pooled"], np.float16),
            caption=row["caption"],
            fps=row["fps"],
            time_ids=np.array([row[name] for name in SIZES]),
        )
    return len(kept)
