"""Clips that a run renders between its steps: mp4 files, a contact sheet, and figures."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import whole_or_nothing
from ...temporal.hosts.diffusers.base import Base
from ...temporal.hosts.diffusers.sampling import sample_clip
from ...temporal.measure.figures import figures, mean_figures
from ..step.batch import draw_noise, step_generator
from ..step.data import Data
from ..step.loss import Loss
from .processes import Processes

_FIGURES = ("flicker", "warp_error", "coverage", "motion")
_SAMPLE_STEP = -2  # takes the place of the step in seeds


@dataclass
class Scene:
    """A clip to render: an encoded caption, and the latents `[F, 4, h, w]` of the real clip where there is one."""

    title: str  # the caption, or the file of the clip that has it
    tokens: torch.Tensor  # [2, T, C], of the empty caption and this one
    pooled: torch.Tensor  # [2, P]
    shape: torch.Size  # [F, 4, h, w]
    real: torch.Tensor | None = None


def scenes(base: Base, data: Data) -> list[Scene]:
    """Return the config's captions, or those of the held-out clips, at the length and size of a training clip."""
    config, clips = data.config, data.clips
    longest = max(config.frames)
    if config.validation_captions:
        size = next(clips.sizes[i] for bucket in data.buckets for i in bucket)
        text = base.encode_text(["", *config.validation_captions])
        tokens, pooled = (rows.cpu() for rows in text)
        return [
            Scene(caption, tokens[[0, i]], pooled[[0, i]], torch.Size((longest, 4, *size)))
            for i, caption in enumerate(config.validation_captions, 1)
        ]
    found = []
    for i in data.held_out[: config.sample_clips]:
        real = clips.frames(i, 0, min(longest, clips.lengths[i]))
        tokens, pooled = clips.text(torch.tensor([0, clips.caption[i]]))
        found.append(Scene(clips.names[i], tokens, pooled, real.shape, real))
    return found


def render(loss: Loss, scene: Scene, number: int) -> torch.Tensor:
    """Return latents `[F, 4, h, w]` of a scene by the UNet that trains; the seed is the scene's number."""
    config, device = loss.config, loss.device
    noise_phase = config.last_noise().model_copy(update={"probability": 1.0})
    generator = step_generator(config.seed, _SAMPLE_STEP, number)
    noise = draw_noise(torch.Size((1, *scene.shape)), generator, noise_phase)[0]
    return sample_clip(
        loss.base,
        loss.unet,
        noise.to(device),
        (scene.tokens.to(device), scene.pooled.to(device)),
        steps=config.sampler_steps,
        cfg=config.sampler_cfg,
        precision=config.precision,
    )


def decoded(base: Base, device: torch.device, latents: torch.Tensor) -> np.ndarray:
    """Return pictures uint8 `[F, H, W, 3]`. The VAE visits the run's device and goes back to where it was."""
    home = base.vae.device
    base.vae.to(device)
    try:
        return (base.decode(latents, batch=1) * 255).round().byte().numpy()
    finally:
        base.vae.to(home)


def sample(loss: Loss, data: Data, processes: Processes, folder: Path) -> dict[str, Any]:
    """Render every scene into `folder`; returns mean figures, beside those of the real clips where there are some.

    The processes share the scenes and the first one writes: `0.mp4`, `1.mp4`, ... and `contact_sheet.png`. The folder
    appears when it is whole. Raises OSError where it cannot be written.
    """
    base, device = loss.base, loss.device
    made = []
    for number, scene in processes.share(scenes(base, data)):
        clip = decoded(base, device, render(loss, scene, number))
        real = None if scene.real is None else decoded(base, device, scene.real)
        made.append((number, scene.title, clip, real))
    everything = sorted((one for some in processes.gather(made) for one in some), key=lambda one: one[0])
    if not processes.main:
        return {}
    _write(everything, folder, data.clips.fps)
    means = mean_figures([figures(clip) for _, _, clip, _ in everything])
    truth = mean_figures([figures(real) for *_, real in everything if real is not None])
    shown = {name: means[name] for name in _FIGURES}
    return shown | {f"real_{name}": truth[name] for name in _FIGURES if truth}


def _write(everything: list[tuple[int, str, np.ndarray, np.ndarray | None]], folder: Path, fps: float) -> None:
    from ...media.sheets import contact_sheet
    from ...media.writer import write_clip

    folder.parent.mkdir(exist_ok=True)
    rows = []
    with whole_or_nothing(folder) as part:
        part.mkdir()
        for number, title, clip, real in everything:
            write_clip(part / f"{number}.mp4", clip, fps, metadata={"title": title})
            rows.append((title, clip))
            if real is not None:
                rows.append((f"{title}: the clip itself", real))
        contact_sheet(rows).save(part / "contact_sheet.png")
        if folder.exists():  # of a run that was killed after this step
            shutil.rmtree(folder)
