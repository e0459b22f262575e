"""Sampling the tiny SDXL in a few steps, and the contract's nodes as functions from MODEL to MODEL."""

from functools import cache

import comfy.controlnet
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import nodes
import torch
from comfy.patcher_extension import WrappersMP

import tiny
from sdxl_anime_video.nodes.anchor import KeyframeAnchor
from sdxl_anime_video.nodes.context_windows import ContextWindows
from sdxl_anime_video.nodes.noise import CorrelatedNoise
from sdxl_anime_video.nodes.smoothing import FrameSmoothing
from sdxl_anime_video.temporal.clip.contract import Chain
from sdxl_anime_video.temporal.hosts.comfy.layers.adapter import apply_adapter, model_blocks
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.hosts.comfy.published import FRAMES_KEY
from sdxl_anime_video.temporal.hosts.comfy.sampling.wrapper import record
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter

FRAMES = 5
SIZE = 4  # latent height and width
CONFIG = tiny.TinyConfig(widths=(64,), depth=(1,))
POSITIVE = tiny.conditioning(CONFIG)
NEGATIVE = tiny.conditioning(CONFIG, seed=1)


@cache
def _built():
    return tiny.comfy_model(CONFIG)


def model():
    """A clone with nothing recorded on it; the weights are built once."""
    return _built().clone()


@cache
def _built_adapter():
    sites = {block.path: (block.dim, block.heads) for block in model_blocks(_built())}
    adapter = TemporalAdapter.create(sites, max_frames=8)
    tiny.randomise(adapter, seed=7)
    return as_patcher(adapter.requires_grad_(False))


def adapted(model, *settings):
    """The model with a random temporal adapter, under which frames see each other; its strength and range."""
    return apply_adapter(model, _built_adapter(), *settings)


def empty(frames: int = FRAMES) -> torch.Tensor:
    return torch.zeros(frames, 4, SIZE, SIZE)


def given(frames: int, seed: int = 0) -> dict:
    """A LATENT to pin."""
    return {"samples": tiny.latent(frames, SIZE, SIZE, seed=seed)}


def correlated(model, mode="shared", correlation=0.8, **freenoise):
    return CorrelatedNoise.execute(model, mode, correlation, **freenoise).result[0]


def smoothed(model, amount=0.3, start=0.0, end=1.0):
    return FrameSmoothing.execute(model, amount, start, end).result[0]


def anchored(model, every=2, strength=1.0, band="low", start=0.0, end=1.0, latent=None, positions=""):
    return KeyframeAnchor.execute(model, every, strength, band, start, end, latent, positions).result[0]


def ksample(
    model, sampler="euler", *, seed=5, frames=FRAMES, latent=None, steps=4, cfg=2.0, noise=None, mask=None,
    positive=POSITIVE, negative=NEGATIVE, **options,
) -> torch.Tensor:  # fmt: skip
    """What KSampler computes, `[F, 4, SIZE, SIZE]`; without a latent, for `noise` or for so many frames."""
    if latent is None:
        latent = empty(frames) if noise is None else torch.zeros_like(noise)
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "karras", positive, negative, latent, noise_mask=mask, seed=seed, **options
    )


def sample_custom(model, sampler, sigmas, *, frames=FRAMES, cfg=2.0, seed=5, **options) -> torch.Tensor:
    """What SamplerCustom computes, `[F, 4, SIZE, SIZE]`."""
    noise = comfy.sample.prepare_noise(empty(frames), seed)
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, POSITIVE, NEGATIVE, empty(frames), seed=seed, disable_pbar=True, **options
    )


def evaluate(model, sigmas, x, cfg=2.0, positive=POSITIVE, negative=NEGATIVE) -> list[torch.Tensor]:
    """The denoised prediction for the same x at each of the sigmas."""
    found = []

    def look(denoise, noise, levels, extra_args=None, **_):
        found.extend(denoise(x, level.repeat(len(x)), **extra_args) for level in levels[:-1])
        return x

    sampler, levels = comfy.samplers.KSAMPLER(look), torch.tensor([*sigmas, 0.0])
    comfy.sample.sample_custom(model, x, cfg, sampler, levels, positive, negative, torch.zeros_like(x), seed=0)
    return found


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def diffusers_difference(config: tiny.TinyConfig, frames: int, apply, layers, strength=1.0, clips=1) -> float:
    """Difference of the noise that a MODEL after `apply(MODEL)` and diffusers' UNet under the same layers predict.

    clips: so many clips the frames are for diffusers' UNet.
    """
    model, positive, sigma = tiny.comfy_model(config), tiny.conditioning(config, seed=1), 2.5
    x = tiny.latent(frames, 8, 8) * 3
    (ours,) = evaluate(apply(model), [sigma], x, 1.0, positive, positive)
    text, pooled = positive[0][0], positive[0][1]["pooled_output"]
    ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * frames)  # core takes the latent's size times 8
    with torch.no_grad():
        noise = TemporalUNet(tiny.diffusers_unet(config), layers, strength)(
            x / (sigma**2 + 1) ** 0.5,
            model.get_model_object("model_sampling").timestep(torch.tensor(sigma)),
            text.expand(frames, -1, -1),
            added_cond_kwargs={"text_embeds": pooled.expand(frames, -1), "time_ids": ids},
            num_frames=frames // clips,
        ).sample
    return difference((x - ours) / sigma, noise)


def modules_of(model) -> list:
    """Everything by which a UNet could differ: modules, the dictionaries that hold them, and hooks."""
    return [
        (name, id(m), id(m._modules), list(m._modules), {k: len(v) for k, v in vars(m).items() if k.endswith("_hooks")})
        for name, m in model.model.named_modules()
    ]


def stop_at(step):
    """A callback that interrupts sampling as ComfyUI's button does."""

    def callback(now, x0, x, total):
        if now == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    return callback


def sigmas_of(model, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)


def correlations(clip: torch.Tensor) -> torch.Tensor:
    """Correlation of frames `[F, F]`."""
    return torch.corrcoef(clip.flatten(1))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for the order of float32 sums."""
    return bool((a - b).abs().max() < 2e-5 * b.std())


def chained(model, frames=4, overlap=1, carry="overlap", denoise=0.5, resume_id=""):
    chain = Chain(frames, overlap, carry, denoise, resume_id)
    return record(model, lambda contract: contract.with_chain(chain))


def windowed(model, length=4, overlap=1, schedule="static", fuse="pyramid", freenoise=False):
    return ContextWindows.execute(model, length, overlap, schedule, fuse, freenoise).result[0]


def watched(model, seen: list):
    """The model, noting FrameInfo and frames in the batch at every call of the UNet."""
    model = model.clone()

    def watch(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        info = transformer_options[FRAMES_KEY]
        seen.append((info, len(x) // len(transformer_options["cond_or_uncond"])))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return model


def pictures(frames: int, seed: int = 1) -> torch.Tensor:
    """Random hints `[F, H, W, 3]` for frames of the clip's size."""
    return torch.rand(frames, 8 * SIZE, 8 * SIZE, 3, generator=torch.Generator().manual_seed(seed))


def rows_of(conditioning: list, frames: int) -> list:
    """One row a frame, each of its own."""
    text, info = conditioning[0]
    scale = torch.linspace(0.5, 1.5, frames)
    return [[text * scale[:, None, None], {**info, "pooled_output": info["pooled_output"] * scale[:, None]}]]


def controlled(hints: torch.Tensor) -> tuple[list, list]:
    """Conditioning under a tiny ControlNet with random weights."""
    control = comfy.controlnet.ControlNet(tiny.control_net(CONFIG), load_device=torch.device("cpu"))
    return nodes.ControlNetApplyAdvanced().apply_controlnet(POSITIVE, NEGATIVE, control, hints, 0.5, 0.0, 1.0)


def by_ksampler(model, latent):
    return nodes.KSampler().sample(model, 5, 4, 2.0, "euler_ancestral", "karras", POSITIVE, NEGATIVE, latent)[0]


def by_ksampler_part_denoised(model, latent):
    filled = {**latent, "samples": given(len(latent["samples"]))["samples"]}
    return nodes.KSampler().sample(model, 5, 4, 2.0, "dpmpp_2m", "karras", POSITIVE, NEGATIVE, filled, 0.5)[0]


def by_two_stages(model, latent):
    sample = nodes.KSamplerAdvanced().sample
    rest = (POSITIVE, NEGATIVE)
    half = sample(model, "enable", 5, 4, 2.0, "euler", "karras", *rest, latent, 0, 2, "enable")[0]
    return sample(model, "disable", 5, 4, 2.0, "euler", "karras", *rest, half, 2, 10000, "disable")[0]


def by_sampler_custom(model, latent):
    sampler = custom.KSamplerSelect.execute("dpmpp_2m_sde").result[0]
    return custom.SamplerCustom.execute(
        model, True, 5, 2.0, POSITIVE, NEGATIVE, sampler, sigmas_of(model, 4), latent
    ).result[0]


def by_sampler_custom_advanced(model, latent):
    guider = custom.CFGGuider.execute(model, POSITIVE, NEGATIVE, 2.0).result[0]
    sampler = custom.KSamplerSelect.execute("lcm").result[0]
    noise = custom.RandomNoise.execute(5).result[0]
    return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas_of(model, 4), latent).result[0]


ENTRY_POINTS = [by_ksampler, by_ksampler_part_denoised, by_two_stages, by_sampler_custom, by_sampler_custom_advanced]
