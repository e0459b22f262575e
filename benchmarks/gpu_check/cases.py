"""Clips of the toon world by every MODEL node of the pack, in one ComfyUI with one device, precision and memory mode.

Each is a process of its own, because ComfyUI decides device and memory mode when it is imported.
"""

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ... import comfy_entrypoint
from ...demo.hints import hint_pictures
from ...demo.painter import paint_clip
from ...headless.comfyui import import_comfyui

CAPTION = "girl, blue hair, white dress, sunset, run"
SIZE = 128


class _AbsentAv(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets ComfyUI's node API be imported without PyAV: nothing here reads or writes a video."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] == "av":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        def anything(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})  # annotations and base classes are all that is asked for

        module = types.ModuleType(spec.name)
        module.__getattr__ = anything
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def start(base: Path, cpu: bool, flags: list[str]) -> dict[str, type]:
    """Import ComfyUI with flags such as `fp16_unet`, `lowvram`; returns our nodes by their id."""
    if importlib.util.find_spec("av") is None:
        sys.meta_path.append(_AbsentAv())
    import_comfyui(base, cpu=cpu)
    from comfy.cli_args import args

    for flag in flags:
        setattr(args, flag, True)

    async def nodes() -> list[type]:
        return await (await comfy_entrypoint()).get_node_list()

    return {kind.GET_SCHEMA().node_id: kind for kind in asyncio.run(nodes())}


class Clips:
    """Samples clips of one caption and seed by KSampler, with the pack's nodes on the toon MODEL."""

    def __init__(self, nodes: dict[str, type], frames: int, steps: int) -> None:
        import nodes as core

        self.nodes, self.frames, self.steps = nodes, frames, steps
        self.plain, self.clip, self.vae = self.node("DemoModel")
        self.positive, self.negative = (core.CLIPTextEncode().encode(self.clip, text)[0] for text in (CAPTION, ""))
        self.adapter = self.node("LoadTemporalAdapter", "toon/toon_adapter.safetensors")
        self.module = self.node("LoadMotionModule", "toon/toon_motion.safetensors")

    def node(self, name: str, *values: Any, **more: Any) -> Any:
        """What a node gives: its output, or all if there are several."""
        result = self.nodes[f"SAV_{name}"].execute(*values, **more).result
        return result[0] if len(result) == 1 else result

    def sample(
        self, model: Any, *, conds: Any = None, callback: Callable[..., None] | None = None, sampler: str = "dpmpp_2m"
    ) -> torch.Tensor:
        """Latents `[F, 4, h, w]` fp32 on the CPU."""
        import comfy.sample

        latent = torch.zeros(self.frames, 4, SIZE // 8, SIZE // 8)
        noise = comfy.sample.prepare_noise(latent, 5)
        given = ("karras", *(conds or (self.positive, self.negative)), latent)
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, self.steps, 3.0, sampler, *given, seed=5, callback=callback, disable_pbar=True
            ).float().cpu()  # fmt: skip

    def adapted(self, strength: float = 1.0, model: Any = None) -> Any:
        """The MODEL with the adapter."""
        return self.node("ApplyTemporalAdapter", model or self.plain, self.adapter, strength, 0.0, 1.0)

    def moved(self) -> Any:
        """The MODEL with the motion module, which brings a noise schedule of its own."""
        return self.node("ApplyMotionModule", self.plain, self.module, 1.0, 0.0, 1.0, "auto")

    def chained(self, resume_id: str = "") -> Any:
        """The adapted MODEL in segments of half the clip."""
        return self.node("SegmentChain", self.adapted(), self.frames // 2 + 1, 1, "overlap", 1.0, resume_id)

    def models(self) -> dict[str, Any]:
        """MODELs by the name of what they try out."""
        half, adapted = self.frames // 2 + 1, self.adapted()
        pinned = {"samples": torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))}
        anchor = ("KeyframeAnchor", adapted, 2)
        speed = self.node("LoraStack", self.plain, self.clip, lora_1="toon/toon_lcm.safetensors", weight_1=1.0)[0]
        return {
            "plain": self.plain,
            "adapter": adapted,
            "adapter, half of the schedule": self.node("ApplyTemporalAdapter", self.plain, self.adapter, 0.7, 0.0, 0.5),
            "correlated noise": self.node("CorrelatedNoise", adapted, "progressive", 0.95),
            "smoothing": self.node("FrameSmoothing", adapted, 0.3, 0.0, 1.0),
            "anchor": self.node(*anchor, 0.5, "low", 0.0, 1.0),
            "pinned keyframe": self.node(*anchor, 1.0, "low", 0.0, 1.0, pinned, "0"),
            "chain by overlap": self.chained(),
            "chain by last frame": self.node("SegmentChain", adapted, half, 0, "last_frame", 0.7),
            "context windows": self.node("ContextWindows", adapted, half, 1, "uniform", "pyramid"),
            "motion module": self.moved(),
            "lcm": self.node("SamplingPreset", speed, "lcm")[0],
        }

    def conditions(self) -> dict[str, Any]:
        """(positive, negative) by the name of what they try out, for the adapted MODEL."""
        import comfy.controlnet
        import folder_paths

        hints = torch.from_numpy(hint_pictures(paint_clip(CAPTION, self.frames, SIZE, 5), "pose")).float() / 255
        network = comfy.controlnet.load_controlnet(
            folder_paths.get_full_path_or_raise("controlnet", "toon/toon_pose.safetensors")
        )
        keyframes = ("0,50%,100%", 1.0, "linear", 0.0, 1.0)
        prompts = f"0: {CAPTION}\n100%: girl, red hair, white dress, sunset, run"
        return {
            "control keyframes": self.node(
                "ControlKeyframes", self.positive, self.negative, network, hints, self.frames, *keyframes
            )[:2],
            "prompt schedule": (self.node("PromptSchedule", self.clip, prompts, self.frames, "linear"), self.negative),
        }


def neutral(clips: Clips) -> Any:
    """The MODEL under every node at its neutral setting."""
    model = clips.node("CorrelatedNoise", clips.adapted(0.0), "shared", 0.0)
    model = clips.node("FrameSmoothing", model, 0.0, 0.0, 1.0)
    return clips.node("KeyframeAnchor", model, 2, 0.0, "low", 0.0, 1.0)


def interrupted(clips: Clips, model: Any, step: int) -> tuple[bool, float]:
    """Whether sampling stopped when Cancel was pressed at a step, and how many seconds later.

    Steps are counted over all segments of a clip; it must not be the last, after which nothing asks for the button.
    """
    import comfy.model_management

    done, pressed = 0, 0.0

    def press(*_: Any) -> None:
        nonlocal done, pressed
        done += 1
        if done == step:
            pressed = time.perf_counter()
            comfy.model_management.interrupt_current_processing()

    try:
        clips.sample(model, callback=press)
    except comfy.model_management.InterruptProcessingException:
        return True, time.perf_counter() - pressed
    return False, float("nan")


def exact(clips: Clips) -> dict[str, float]:
    """Largest differences that must be 0.0 on one device, by name."""
    plain, moved = clips.sample(clips.plain), clips.sample(clips.moved())
    chain = clips.sample(clips.chained())
    interrupted(clips, clips.chained("gpu-check"), clips.steps + 1)  # in the second segment
    pairs = {
        "neutral settings": (clips.sample(neutral(clips)), plain),
        "plain after a motion module": (clips.sample(clips.plain), plain),
        "motion module after plain": (clips.sample(clips.moved()), moved),
        "chain resumed": (clips.sample(clips.chained("gpu-check")), chain),
        "after an interrupt": (clips.sample(clips.plain), plain),
    }
    return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


def compiled(clips: Clips, backend: str) -> dict[str, Any]:
    """The adapter under TorchCompileModel: relative errors at two strengths, and what was traced anew between them."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel
    from torch._dynamo.utils import counters

    quick = TorchCompileModel.execute(clips.plain, backend).result[0]
    errors, traced = {}, []
    for strength in (1.0, 0.5, 1.0):
        clip = clips.sample(clips.adapted(strength, quick))
        errors[f"compiled, strength {strength:g}"] = relative(clip, clips.sample(clips.adapted(strength)))
        traced.append(counters["stats"]["unique_graphs"])
    return {"errors": errors, "retraced": traced[-1] - traced[0] if traced[0] else float("inf")}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def run(options: dict[str, Any], base: Path) -> dict[str, Any]:
    """Everything that one process finds. options: device, flags, frames, steps, only (names; all if empty), backend."""
    clips = Clips(start(base, options["device"] == "cpu", options["flags"]), options["frames"], options["steps"])
    from comfy.model_management import get_torch_device, get_torch_device_name

    only = options["only"]
    chosen = {name: model for name, model in clips.models().items() if not only or name in only}
    latents = {
        name: clips.sample(model, sampler="lcm" if name == "lcm" else "dpmpp_2m") for name, model in chosen.items()
    }
    found: dict[str, Any] = {"latents": latents, "device": get_torch_device_name(get_torch_device())}
    if not only:
        latents |= {name: clips.sample(clips.adapted(), conds=conds) for name, conds in clips.conditions().items()}
        found["exact"] = exact(clips)
        found["interrupt"] = interrupted(clips, clips.adapted(), 1)
    if options["backend"]:
        found["compiled"] = compiled(clips, options["backend"])
    return found
