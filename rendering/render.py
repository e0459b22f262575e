"""`sdxl-anime-video render CONFIG.json [--field value ...]`: a clip from checkpoint, adapter and prompts, no ComfyUI.

Noise, noise levels, guidance and steps are ComfyUI's, so the frames are those of the same settings in its nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..commands.config import at_field
from ..commands.precision import chosen_device
from ..files import whole_or_nothing
from ..temporal.hosts.diffusers.sampling import sample_clip
from ..temporal.hosts.diffusers.unet import TemporalUNet
from ..temporal.weights.formats import load_layers
from .config import RenderConfig
from .hooks import ClipHooks

if TYPE_CHECKING:
    from ..temporal.hosts.diffusers.base import Base, Text
    from ..temporal.layers.base import TemporalLayers

PIXELS_AT_ONCE = 1024 * 1024  # that the VAE decodes: enough to keep it busy
Report = Callable[[str, int, int], Any]
"""Called with a task, its finished part and its whole."""


def render(config: RenderConfig, report: Report, say: Callable[[str], Any]) -> Path:
    """Sample a clip, write it with its settings in the file's metadata, and return its path.

    Raises ValueError and OSError, before the sampling wherever possible.
    """
    if config.output.exists() and not config.overwrite:
        raise ValueError(f"output: {config.output} is there already; name another, or set overwrite to true")
    if config.save_frames and (stills := stills_of(config)).exists():
        raise ValueError(f"save_frames: the folder {stills} is there already; remove it, or name another output")
    _require_writable(config.output.parent)
    if config.threads:
        torch.set_num_threads(config.threads)
    base, adapter = load(config)
    say(base.origin)
    at_once, trained = frames_at_once(config), adapter and adapter.trained_frames
    if trained and at_once > trained:
        say(
            f"warning: {at_once} frames at once, and the {adapter.kind} was trained on {trained}; "
            f"set segment_frames to {trained}"
        )
    latents = sample(config, base, adapter, report)
    write(config, decoded(base, latents), {"checkpoint": base.origin, "adapter": adapter and adapter.metadata}, report)
    return config.output


def _require_writable(folder: Path) -> None:
    """Make the folder if it is missing. Raises ValueError if no file can be written in it."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output: the folder {folder} cannot be written to ({error.strerror}); name another") from None


def load(config: RenderConfig) -> tuple[Base, TemporalLayers | None]:
    """Return the model on its device, and the temporal layers in the same precision, as in ComfyUI."""
    from ..temporal.hosts.diffusers.base import load_base, on_schedule_of

    device = chosen_device(config.device)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = names.get(config.precision, torch.float16 if device.type == "cuda" else torch.float32)
    adapter = load_layers(config.adapter, dtype=dtype).to(device) if config.adapter else None
    if adapter is not None and (at_once := frames_at_once(config)) > adapter.max_frames:
        raise ValueError(
            f"frames: {at_once} frames at once are more than the {adapter.kind}'s max_frames {adapter.max_frames}; "
            f"set segment_frames to {adapter.trained_frames or adapter.max_frames}"
        )
    base = load_base(config.checkpoint, dtype)
    base.unet.to(device)
    base.vae.to(device)
    return on_schedule_of(base, adapter), adapter


def frames_at_once(config: RenderConfig) -> int:
    return min(config.frames, config.segment_frames or config.frames)


@torch.no_grad()
def sample(config: RenderConfig, base: Base, adapter: TemporalLayers | None, report: Report) -> torch.Tensor:
    """Return the latents `[F, 4, h, w]` of the clip, scaled for the UNet, sampled segment after segment."""
    from ..temporal.clip.segments import Segment

    if base.factor != 8:
        raise ValueError(f"checkpoint: its VAE has {base.factor} pixels to a latent, not SDXL's 8; give an SDXL model")
    text = conditioning(config, base)
    noise = initial_noise(config)
    latents = torch.zeros_like(noise)
    chain = config.contract().chain
    segments = chain.segments(config.frames) if chain else [Segment(0, config.frames)]
    steps = [chain.steps_of(segment, config.steps) if chain else config.steps for segment in segments]
    done = iter(range(1, sum(steps) + 1))
    report("sample", 0, sum(steps))
    with ExitStack() as stack:
        temporal = stack.enter_context(TemporalUNet(base.unet, adapter)) if adapter is not None else None
        hooks = ClipHooks(config, base.sigmas, temporal, lambda: report("sample", next(done), sum(steps)))
        for segment, count in zip(segments, steps, strict=True):
            rows = segment.rows
            some = noise[rows].to(base.unet.device)
            start = chain.start_of(segment, latents) if chain else None
            hooks.begin(segment, latents, some)
            piece = sample_clip(
                base,
                temporal or base.unet,
                some,
                tuple(torch.cat([part[0:1].expand(len(some), *part.shape[1:]), part[1:][rows]]) for part in text),
                steps=config.steps,
                cfg=config.cfg,
                temporal=temporal is not None,
                hooks=hooks,
                start=None if start is None else start.to(some).expand_as(some),
                begin=config.steps - count,
            )
            latents[segment.new] = piece[segment.known :].cpu()
    return latents


def initial_noise(config: RenderConfig) -> torch.Tensor:
    """Return the clip's noise `[F, 4, h, w]` on the CPU: as core draws it for an empty latent, then correlated."""
    from ..temporal.clip.noise import correlate

    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(config.frames, 4, config.height // 8, config.width // 8, generator=generator)
    settings = config.contract().noise
    return correlate(noise, **vars(settings), seed=config.seed) if settings else noise


def conditioning(config: RenderConfig, base: Base) -> Text:
    """Return tokens `[1 + F, T, C]` and pooled `[1 + F, P]`: a row for the negative prompt, then one a frame."""
    from ..temporal.clip.prompts import equal_lengths, spread
    from ..temporal.hosts.diffusers.text import plain_prompt

    assert base.encode_prompt is not None
    prompts, mixes = config.schedule()
    words = [plain_prompt(config.negative, "negative"), *prompts]
    encoded = {word: base.encode_prompt(word) for word in dict.fromkeys(words)}
    with at_field("prompt"):
        tokens = equal_lengths([encoded[word][0] for word in words])
    pooled = [encoded[word][1] for word in words]
    kind = config.interpolation
    return (
        torch.cat([tokens[0], spread(tokens[1:], mixes, kind, base.text_widths)]),
        torch.cat([pooled[0], spread(pooled[1:], mixes, kind)]),
    )


def decoded(base: Base, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield pictures `[H, W, 3]`, 0..1; a few are in memory at a time."""
    height, width = (side * base.factor for side in latents.shape[2:])
    at_once = max(1, min(16, PIXELS_AT_ONCE // (height * width)))
    for some in latents.split(at_once):
        yield from base.decode(some, at_once)


def stills_of(config: RenderConfig) -> Path:
    """Return the folder of the PNG files."""
    return config.output.with_name(f"{config.output.stem}_frames")


def write(config: RenderConfig, frames: Iterator[torch.Tensor], facts: dict[str, Any], report: Report) -> None:
    """Write the mp4, and the stills if the config asks for them: both or neither."""
    from ..commands.revision import git_revision
    from ..media.writer import save_stills, write_clip

    settings = json.loads(config.model_dump_json())
    metadata = {"render": {"settings": settings, **facts, "revision": git_revision()}}
    report("decode and write", 0, config.frames)
    with ExitStack() as stack:
        pictures: Iterator[Any] = frames
        if config.save_frames:
            folder = stack.enter_context(whole_or_nothing(stills_of(config)))
            folder.mkdir()
            pictures = save_stills(frames, folder, metadata)
        write_clip(
            config.output,
            pictures,
            config.fps,
            config.crf,
            metadata,
            lambda done: report("decode and write", done, config.frames),
        )
