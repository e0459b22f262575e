"""Turn a source into rows of the cache: its clips, then encoded by the frozen model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...commands.config import VaePrecision
from ...commands.precision import chosen_device
from ...temporal.hosts.diffusers.base import Base, load_base
from ...temporal.measure.drawings import new_drawings
from ..clips.identity import half_posterior
from ..clips.source import DataError
from ..clips.store import SIZES, Row
from . import npz
from .options import PrepareConfig
from .pieces import cut, fault, fit, look, on_grid
from .reading.frames import given_scenes, scenes, shown_frames, size_of
from .reading.sources import Source


def walk(source: Source, config: PrepareConfig, multiple: int, factor: int) -> Iterator[Row]:
    """Yield every clip of a source in order, dropped clips with their reason; at least one row.

    A row has the store's columns, and `pictures` uint8 `[F, H, W, 3]` of a clip that is yet to be encoded.
    Frames stream through: at most `frames + min_frames` of the config are in memory.
    Raises DataError with the reason if the source is damaged; then no row of it may be kept.
    """
    try:
        rows = npz.read_clip(source, config, factor) if source.kind == "npz" else _walk(source, config, multiple)
        for index, row in enumerate(rows):
            named = {"id": f"{source.name}#{index:05d}", "source": source.name, "signature": source.signature}
            yield {"fps": config.fps, **row, **named}
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        raise DataError(" ".join(str(error).split()) or type(error).__name__) from error


def _walk(source: Source, config: PrepareConfig, multiple: int) -> Iterator[Row]:
    into = fit(*size_of(source), config.resolution, multiple)
    sizes = dict(zip(SIZES, (*into.original, *into.crop, *into.target), strict=True))
    if into.enlargement > config.max_enlargement:
        height, width = into.original
        reason = (
            f"small: {width}x{height} needs enlarging {into.enlargement:.2g} times, max_enlargement is "
            f"{config.max_enlargement:g}"
        )
        yield {**sizes, "scene": 0, "start": 0.0, "frames": 0, "unique": "", "look": b"", "reason": reason}
        return
    shown = shown_frames(source, config.fps)
    numbered = given_scenes(shown, source.scenes) if source.scenes else scenes(shown, config)
    empty = True
    for clip in cut(on_grid(numbered, config.fps, into), config):
        empty = False
        greys = np.stack([picture.grey for picture in clip])
        reason = fault(greys, config)
        row = {
            **sizes,
            "scene": clip[0].scene,
            "start": round(clip[0].time, 6),
            "frames": len(clip),
            "unique": "".join(str(int(new)) for new in new_drawings(picture.pixels for picture in clip)),
            "look": look(greys),
            "reason": reason,
        }
        yield row if reason else {**row, "pictures": np.stack([picture.pixels for picture in clip])}
    if empty:
        raise DataError("no frame in the scenes of the manifest")


def open_model(config: PrepareConfig) -> tuple[Base, int]:
    """Return the frozen VAE and text encoders, and the number of pixels that picture sides must be multiples of."""
    if config.threads:
        torch.set_num_threads(config.threads)
    base = load_base(config.checkpoint, torch.bfloat16)  # of the UNet, of which only the shape is used
    multiple = base.factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    base.unet = None
    base.vae.to(chosen_device(config.device))
    return base, multiple


def encode_row(base: Base, row: dict[str, Any], batch: int, precision: VaePrecision) -> dict[str, Any]:
    """Return a row of the store: `pictures` are encoded, `latents` of an .npz clip unscaled, other rows unchanged."""
    row = dict(row)
    pictures, latents = row.pop("pictures", None), row.pop("latents", None)
    mean, deviation = b"", b""
    if pictures is not None:
        mean, deviation = (part.tobytes() for part in half_posterior(base, pictures, batch, precision))
    elif latents is not None and not row["reason"]:
        mean = (latents / base.vae.config.scaling_factor).astype(np.float16).tobytes()
        deviation = bytes(len(mean))
    return {"tokens": b"", "pooled": b"", **row, "mean": mean, "deviation": deviation}
