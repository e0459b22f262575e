"""Motion modules beside their authors' code, and what other arithmetics of the same weights change.

    python benchmarks/motion_parity.py      # with SAV_ANIMATEDIFF and SAV_HOTSHOT_XL: their code; else its golden files

Relative differences |a - b| / |b| in fp32 on the CPU, on random weights and inputs: a block of 1280 channels, a tiny
UNet of SDXL's make, and the toon model's UNet (trained weights, random motion module), where only the way of the
norms is compared: "every norm across frames" is what AnimateDiff-Evolved makes of both formats.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from sdxl_anime_video.schedulers.best_hq import training_sigmas
from sdxl_anime_video.temporal.hosts.diffusers_motion import MotionUNet, resnet_norms
from sdxl_anime_video.temporal.motion_module import (
    FORMATS,
    MotionConfig,
    MotionModule,
    clips_as_images,
    images_as_clips,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import motion_references as references
import tiny


@contextmanager
def across_frames(norms: list[nn.Module], frames: int) -> Iterator[None]:
    """GroupNorms whose statistics are of the whole clip."""
    hooks = [n.register_forward_pre_hook(lambda _, given: clips_as_images(given[0], frames)) for n in norms]
    hooks += [n.register_forward_hook(lambda _, given, out: images_as_clips(out, frames)) for n in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def every_norm_across_frames(unet: nn.Module, module: MotionModule) -> torch.Tensor:
    """What the tiny UNet gives when the module's own norms and all of the UNet's are of the whole clip."""
    own = MotionModule(MotionConfig(module.channels, "animatediff", module.max_frames))
    own.load_state_dict(module.state_dict())
    norms = [layer for layer in unet.modules() if isinstance(layer, nn.GroupNorm)]
    with across_frames(norms, references.FRAMES), MotionUNet(unet, own) as motion, torch.no_grad():
        return references.call(motion)


def of_the_authors(unet: nn.Module, folder: Path) -> Iterator[tuple[str, float]]:
    """Rows for both formats."""
    for format, variable in references.ENVIRONMENT.items():
        checkout = os.environ.get(variable)
        given = (
            references.outputs(format, checkout)
            if checkout
            else load_file(references.DATA / f"motion_{format}.safetensors")
        )
        source = f"{references.SOURCE[format].partition('@')[0]}, {'its code' if checkout else 'its golden file'}"
        got = references.ours(unet, format, folder)
        yield f"ours, {source}: block of {references.WIDE} channels", references.difference(got["wide"], given["wide"])
        yield f"ours, {source}: tiny UNet", references.difference(got["unet"], given["unet"])
        module = references.seeded_file(folder / "m.safetensors", references.channels_of(unet), format)
        other = every_norm_across_frames(unet, module)
        yield f"every norm across frames, {source}: tiny UNet", references.difference(other, given["unet"])


def on_the_toon_model(frames: int = 8) -> Iterator[tuple[str, float]]:
    """Rows for the toon UNet's trained weights: how much the norms alone move its prediction, motion module apart."""
    from sdxl_anime_video.demo.model import load_toon_diffusers, size_ids

    unet, _, text = load_toon_diffusers()
    hidden, pooled = (value.repeat_interleave(frames, 0) for value in text(["blue hair, sunset, run"]))
    noise = torch.randn(frames, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    groups = {
        "ResBlock norms and the last norm (Hotshot-XL)": resnet_norms(unet),
        "every norm (AnimateDiff-Evolved)": [layer for layer in unet.modules() if isinstance(layer, nn.GroupNorm)],
    }

    def predict(timestep: int) -> torch.Tensor:
        added = {"text_embeds": pooled, "time_ids": size_ids(frames)}
        with torch.no_grad():
            return unet(noise, torch.tensor(timestep), hidden, added_cond_kwargs=added, return_dict=False)[0]

    for timestep in (999, 500):
        plain = predict(timestep)
        for name, norms in groups.items():
            with across_frames(norms, frames):
                yield (
                    f"toon UNet alone, timestep {timestep}, {name} across frames",
                    references.difference(predict(timestep), plain),
                )


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    unet = tiny.diffusers_unet()
    unet.load_state_dict(references.spatial_state())
    with tempfile.TemporaryDirectory() as folder:
        rows = [*of_the_authors(unet, Path(folder)), *on_the_toon_model()]
    for name, value in rows:
        sys.stdout.write(f"{value:9.2e}  {name}\n")
    for format, arithmetic in FORMATS.items():
        sigmas = training_sigmas(*arithmetic.betas, "scaled_linear", 1000)
        sys.stdout.write(f"{sigmas[-1]:9.4f}  largest sigma of {format}'s schedule\n")


if __name__ == "__main__":
    main()
