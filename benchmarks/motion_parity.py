"""Motion modules beside their authors' code, and what other arithmetics of the same weights change.

    # with SAV_ANIMATEDIFF and SAV_HOTSHOT_XL: their code; else its golden files
    python -m sdxl_anime_video.benchmarks.motion_parity

Relative differences |a - b| / |b| in fp32 on the CPU, on random weights and inputs: a block of 1280 channels, a tiny
UNet of SDXL's make, and the toon model's UNet (trained weights, a painted clip, no motion module), where only the way
of the norms is compared: "every norm across frames" is what AnimateDiff-Evolved makes of both formats.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ..schedulers.best_hq import training_sigmas
from ..temporal.hosts.diffusers.motion_module import resnet_norms
from ..temporal.hosts.diffusers.unet import TemporalUNet
from ..temporal.layers.clips import clips_as_images, images_as_clips
from ..temporal.layers.motion_module import FORMATS, MotionConfig, MotionModule
from ..temporal.weights.motion.file import load_motion_module

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
    own = MotionModule(MotionConfig(module.sites, "animatediff", module.max_frames))
    own.load_state_dict(module.state_dict())
    norms = [layer for layer in unet.modules() if isinstance(layer, nn.GroupNorm)]
    with across_frames(norms, references.FRAMES), TemporalUNet(unet, own) as motion, torch.no_grad():
        return references.call(motion)


def of_diffusers(folder: Path) -> Iterator[tuple[str, float]]:
    """A row for UNetMotionModel, with a module in the middle as well."""
    from diffusers import MotionAdapter, UNetMotionModel

    unet = tiny.diffusers_unet()
    adapter = MotionAdapter(tiny.TINY.widths, motion_layers_per_block=tiny.TINY.res_blocks, use_motion_mid_block=True)
    tiny.randomise(adapter, seed=7)
    adapter.save_pretrained(folder / "adapter")
    theirs = UNetMotionModel.from_unet2d(unet, adapter).eval()
    given = references.unet_inputs()
    clips = given["sample"].unflatten(0, (references.CLIPS, references.FRAMES)).transpose(1, 2)
    text = given["text"].repeat_interleave(references.FRAMES, 0)
    added = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}

    @torch.no_grad()
    def output() -> torch.Tensor:
        return theirs(clips, 400, text, added_cond_kwargs=added).sample.transpose(1, 2).flatten(0, 1)

    with TemporalUNet(unet, load_motion_module(folder / "adapter")) as motion, torch.no_grad():
        ours = references.call(motion)
    yield "ours, diffusers' UNetMotionModel as from_unet2d leaves it: tiny UNet", references.difference(ours, output())
    theirs.add_embedding.load_state_dict(unet.add_embedding.state_dict())  # which from_unet2d leaves at random
    yield (
        "ours, diffusers' UNetMotionModel with all of SDXL's weights: tiny UNet",
        references.difference(ours, output()),
    )


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


def on_the_toon_model(frames: int = 16) -> Iterator[tuple[str, float]]:
    """Rows for the toon UNet's trained weights on a painted clip: how far the norms alone move its prediction."""
    from ..demo.painter.clip import paint_clip
    from ..temporal.hosts.diffusers.base import load_base, time_ids

    caption = "girl, blue hair, red dress, sunset, run"
    base = load_base("toon")
    hidden, pooled = (value.repeat_interleave(frames, 0) for value in base.encode_text([caption]))
    added = {"text_embeds": pooled, "time_ids": time_ids(128, 128, frames)}
    clean = base.encode(torch.from_numpy(paint_clip(caption, frames).frames))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    groups = {
        "ResBlock norms and the last norm (Hotshot-XL)": resnet_norms(base.unet),
        "every norm (AnimateDiff-Evolved)": [layer for layer in base.unet.modules() if isinstance(layer, nn.GroupNorm)],
    }
    for timestep in (900, 500, 100):
        sigma = base.sigmas[timestep].float()
        noisy = (clean + sigma * noise) / (sigma**2 + 1).sqrt()

        def predict(noisy: torch.Tensor = noisy, timestep: int = timestep) -> torch.Tensor:
            with torch.no_grad():
                return base.unet(noisy, torch.tensor(timestep), hidden, added_cond_kwargs=added, return_dict=False)[0]

        plain = predict()
        for name, norms in groups.items():
            with across_frames(norms, frames):
                moved = references.difference(predict(), plain)
                yield f"toon UNet alone, timestep {timestep}, {name} across frames", moved


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    unet = tiny.diffusers_unet()
    unet.load_state_dict(references.spatial_state())
    with tempfile.TemporaryDirectory() as folder:
        rows = [*of_diffusers(Path(folder)), *of_the_authors(unet, Path(folder)), *on_the_toon_model()]
    for name, value in rows:
        sys.stdout.write(f"{value:9.2e}  {name}\n")
    for format, arithmetic in FORMATS.items():
        sigmas = training_sigmas(*arithmetic.betas, "scaled_linear", 1000)
        sys.stdout.write(f"{sigmas[-1]:9.4f}  largest sigma of {format}'s schedule\n")


if __name__ == "__main__":
    main()
