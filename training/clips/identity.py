"""The identity of a cache: its settings, and the outputs of VAE and text encoders for one picture and two captions.

Outputs are compared instead of weights, with a tolerance for precision and device: a checkpoint that was moved, renamed
or saved in another format is the same model. One with a finetuned text encoder or another VAE is not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...commands.config import VaePrecision
from ...files import write_whole
from ...temporal.hosts.diffusers.base import Base
from .source import DataError

NAME = "cache.json"
FORMAT = 1
TOLERANCE = 0.01  # relative; two machines differ by far less
_CAPTIONS = ["", "a girl with blue hair runs through a meadow at sunset, anime"]


def half_posterior(
    base: Base, pictures: np.ndarray, batch: int, precision: VaePrecision
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation fp16 `[F, 4, H/8, W/8]`, unscaled, of uint8 pictures `[F, H, W, 3]`.

    Raises ValueError if the VAE returns values that are not finite in fp16.
    """
    mean, deviation = (part.half().numpy() for part in base.posterior(torch.from_numpy(pictures), batch, precision))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError("the VAE returns NaN or infinite values; set precision fp32, or use a VAE made for fp16")
    return mean, deviation


def probe(base: Base) -> dict[str, Any]:
    """Return a model's outputs for the probe inputs, and the sizes of its latents and embeddings, as JSON values."""
    rows, columns = np.mgrid[:64, :64] * 4
    picture = np.stack([rows, columns, (rows * columns // 8) % 256], -1).astype(np.uint8)  # [64, 64, 3]
    mean, deviation = half_posterior(base, picture[None], 1, "fp32")
    tokens, pooled = (part.float().cpu().numpy() for part in base.encode_text(_CAPTIONS))
    answers = {
        "VAE": np.concatenate([mean[0, :, ::2, ::2].ravel(), deviation[0, :, ::2, ::2].ravel()]),
        "text encoders": np.concatenate([tokens[:, :8, ::16].ravel(), pooled[:, ::8].ravel()]),
    }
    return {
        "answers": {name: np.round(answer.astype(np.float64), 5).tolist() for name, answer in answers.items()},
        "sizes": {
            "factor": base.factor,
            "scaling_factor": float(base.vae.config.scaling_factor),
            "tokens": list(tokens.shape[1:]),
            "pooled": pooled.shape[1],
        },
    }


def write_identity(cache: Path, probed: dict[str, Any], settings: dict[str, Any], checkpoint: str) -> None:
    """Write `cache.json`. Raises OSError."""
    content = {"format": FORMAT, "checkpoint": checkpoint, "settings": settings, **probed}
    write_whole(cache / NAME, json.dumps(content, indent=1))


def read_identity(cache: Path) -> dict[str, Any] | None:
    """Return the content of `cache.json`; None if it is missing. Raises DataError for a damaged or other version."""
    path = cache / NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the videos again into another folder") from None
    if known != FORMAT:
        raise DataError(f"{path} has format {known}, this program reads format {FORMAT}; prepare the videos again")
    return content


def changes(made: dict[str, Any], probed: dict[str, Any], settings: dict[str, Any] | None = None) -> str:
    """Return in words how a cache differs from a model (and settings); empty if they are the same."""
    found = [
        f"{name} was {made['sizes'][name]}, now is {size}"
        for name, size in probed["sizes"].items()
        if made["sizes"].get(name) != size
    ]
    for name, answer in probed["answers"].items() if not found else ():
        before, now = torch.tensor(made["answers"][name]), torch.tensor(answer)
        away = float((now - before).norm() / before.norm()) if before.shape == now.shape else 1.0
        if not away <= TOLERANCE:
            verb = "are not those" if name.endswith("s") else "is not that"
            found.append(f"the {name} {verb} of {made['checkpoint']} (outputs differ by {away:.0%})")
    for name, value in (settings or {}).items():
        if made["settings"].get(name) != value:
            found.append(f"{name} was {made['settings'].get(name)}, now is {value}")
    return "; ".join(found)
