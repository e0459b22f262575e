"""The memory of a training run, estimated by a step of shapes without data in which every byte is counted.

    total = base + ControlNet + adapter + gradients + optimizer + EMA + step
    step  = max over the operations of a step of (a + (b * latent pixels of a frame + c) * frames * clips)

A step of FakeTensors (shapes without data, from PyTorch's compiler) allocates and frees as many bytes as a real step.
The bytes alive after each of its operations are recorded for three small sizes. Between sizes they differ by a, b and c
only, because no operation is of higher order: fused attention keeps no matrix of scores. So the peak at any size
follows, wherever in the step it lies. Gradients count all the time, as in the second part of an accumulated step, and a
ControlNet counts as if every frame had a hint. Not counted are the driver, memory that the allocator cannot use, and
the VAE and text encoders, which stay in the machine's own memory; `OVERHEAD` stands for the first two on a GPU.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...temporal.hosts.diffusers.base import Base, sigmas_of
from ...temporal.hosts.diffusers.unet import TemporalUNet
from ..clips.source import ClipSource
from ..config.train import TrainConfig
from ..step.batch import Batch, HintedFrames
from ..step.controlnet import controlnet_config
from ..step.layers import create
from ..step.loss import Loss

Size = tuple[int, int, int, int]
"""Clips, frames, and height and width of the latents."""
OVERHEAD = 1e9  # bytes on a GPU beside the tensors, about
SIZES = ((2, 16), (2, 32), (4, 16))  # frames, latent side of the three steps
BYTES = {
    "adamw": (8, 8),
    "adamw8bit": (2.03, 8),
    "muon": (4, 8),
}  # of the moments of a number in a matrix, and of any other


class Live(TorchDispatchMode):
    """Records inside it the bytes alive after every operation, beyond those of the tensors `before`."""

    def __init__(self, before: Iterator[torch.Tensor] | tuple[torch.Tensor, ...] = ()):
        super().__init__()
        self.alive, self.history = 0, [0]
        self.known = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils._pytree import tree_leaves

        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.history.append(self.alive)
        return result

    def _freed(self, key: int, size: int) -> None:
        self.alive -= size
        self.known.discard(key)

    @property
    def peak(self) -> int:
        return max(self.history)


@dataclass(frozen=True)
class Memory:
    """Bytes of a run; `total` at any size of its clips. The first four fields are the arguments of `estimate`."""

    unet_config: Mapping[str, Any]
    config: TrainConfig
    half: bool
    gpu: bool
    base_parameters: int
    adapter_parameters: int
    parts: dict[str, float]  # bytes of base, ControlNet, layers, gradients, optimizer, EMA, and the overhead on a GPU
    fit: np.ndarray  # [operations, 3]: a, b, c

    def step(self, clips: int, frames: int, height: int, width: int) -> float:
        """Return the peak bytes of activations and temporary values for latents `[clips, frames, 4, height, width]`."""
        count = clips * frames
        return float((self.fit @ np.array([1.0, count * height * width, count])).max())

    def total(self, clips: int, frames: int, height: int, width: int) -> float:
        return sum(self.parts.values()) + self.step(clips, frames, height, width)


def estimate(
    unet_config: Mapping[str, Any],
    config: TrainConfig,
    half: bool,
    gpu: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Memory:
    """Return the memory of a run by `config` with a base whose UNet has this diffusers config; needs no weights.

    half: whether the base and the arithmetic are bf16 or fp16. gpu: whether the run is on a GPU. progress: called with
    the number of finished steps of shapes; each takes about ten seconds for a full-size SDXL.
    """
    rows = []
    for done, (frames, side) in enumerate(SIZES):
        history, counts = _step_of_shapes(unet_config, config, half, frames, side)
        rows.append(history)
        progress(done + 1, len(SIZES))
    sizes = np.array([[1.0, frames * side * side, frames] for frames, side in SIZES])
    fit = np.linalg.solve(sizes, np.array(rows, dtype=np.float64)).T
    matrices, rest = BYTES[config.optimizer]
    base, adapter = counts["base"], counts["matrices"] + counts["rest"]
    parts = {
        "base": base * (2 if half else 4),
        "ControlNet": counts["ControlNet"] * (2 if half else 4),
        "adapter": adapter * 4,
        "gradients": adapter * 4,
        "optimizer": counts["matrices"] * matrices + counts["rest"] * rest,
        "EMA": adapter * 4 if config.ema else 0,
        "overhead": OVERHEAD if gpu else 0,
    }
    return Memory(unet_config, config, half, gpu, base, adapter, parts, fit)


def _step_of_shapes(
    unet_config: Mapping[str, Any], config: TrainConfig, half: bool, frames: int, side: int
) -> tuple[list[int], dict[str, int]]:
    """Return the bytes alive after each operation of a step, and the numbers of parameters."""
    from diffusers import ControlNetModel, UNet2DConditionModel
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        with _default_dtype(torch.bfloat16 if half else torch.float32):
            unet: Any = UNet2DConditionModel.from_config(dict(unet_config)).requires_grad_(False)
            network: Any = config.controlnet and ControlNetModel.from_config(controlnet_config(config.controlnet))
        adapter = create(config, unet)
        model = TemporalUNet(unet, adapter)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        if half:
            _compute_norms_in_fp32(model)
            if network:
                _compute_norms_in_fp32(network)
        for parameter in adapter.parameters():
            parameter.grad = torch.zeros_like(parameter)
        parameters = [*unet.parameters(), *adapter.parameters(), *unet.buffers()]
        parameters += network.requires_grad_(False).parameters() if network else []
        before = (*parameters, *(parameter.grad for parameter in adapter.parameters()))
        matrices = sum(p.numel() for p in adapter.parameters() if p.ndim > 1)
        counts = {
            "base": sum(p.numel() for p in unet.parameters()),
            "ControlNet": sum(p.numel() for p in network.parameters()) if network else 0,
            "matrices": matrices,
            "rest": sum(p.numel() for p in adapter.parameters()) - matrices,
        }
        precision = config.model_copy(update={"precision": "bf16" if half else "fp32"})
        base = Base(unet, None, lambda captions: None, sigmas_of({}), "epsilon", {})
        loss = Loss(precision, base, model, torch.device("cpu"), network)
        with Live(before) as live:
            noisy = torch.empty(1, frames, 4, side, side)
            predicted = loss.predict(noisy, _batch(noisy, unet_config, bool(network)))
            (predicted - torch.empty_like(noisy)).square().mean().backward()
        return live.history, counts


def _batch(noisy: torch.Tensor, unet_config: Mapping[str, Any], hinted: bool) -> Batch:
    """Return a batch of one clip without values; every frame has a hint where `hinted`."""
    _, frames, _, height, width = noisy.shape
    pooled = unet_config["projection_class_embeddings_input_dim"] - 6 * unet_config["addition_time_embed_dim"]
    hints = HintedFrames(torch.arange(frames), torch.empty(1, frames, 3, 8 * height, 8 * width))
    return Batch(
        numbers=[0],
        latents=noisy,
        noise=noisy,
        timestep=torch.zeros(1, dtype=torch.long),
        text=(torch.empty(1, 77, unet_config["cross_attention_dim"]), torch.empty(1, pooled)),
        time_ids=torch.empty(1, 6),
        hinted=hints if hinted else None,
    )


def _compute_norms_in_fp32(model: nn.Module) -> None:
    """Compute norms in fp32 as autocast does on a GPU; the estimate runs under a CPU's, which leaves them in bf16."""
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            for name, value in list(module.named_parameters(recurse=False)):
                if value.dtype != torch.float32:
                    setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=torch.float32), False))
            module.register_forward_pre_hook(lambda module, args: (args[0].float(), *args[1:]))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new modules in this dtype, because a module of FakeTensors cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class OutOfMemory(MemoryError):
    """A step did not fit; the message names three settings to change and the memory that each saves."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU or the machine had no memory left: PyTorch raises a RuntimeError for the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def savings(memory: Memory, size: Size) -> list[str]:
    """Return settings that lower the estimate, each with the memory that it saves; the best first."""
    config, (clips, frames, height, width) = memory.config, size
    now = memory.total(*size)
    found: list[tuple[float, str]] = []
    if not config.gradient_checkpointing:
        changed = config.model_copy(update={"gradient_checkpointing": True})
        other = estimate(memory.unet_config, changed, memory.half, memory.gpu)
        found.append((now - other.total(*size), "gradient_checkpointing: true"))
    if clips > 1:
        fewer = memory.total(clips // 2, frames, height, width)
        found.append((now - fewer, f"clips_per_step: {clips // 2} (and accumulation: {config.accumulation * 2})"))
    shorter = max(2, frames * 2 // 3)
    found.append((now - memory.total(clips, shorter, height, width), f"frames: [{shorter}]"))
    if config.resolution:
        lower = max(64, config.resolution * 3 // 4 // 64 * 64)
        ratio = lower / config.resolution
        smaller = memory.total(clips, frames, round(height * ratio), round(width * ratio))
        found.append((now - smaller, f"resolution: {lower}"))
    if config.optimizer == "adamw" and memory.gpu:
        found.append((memory.parts["optimizer"] * (1 - BYTES["adamw8bit"][0] / 8), "optimizer: adamw8bit"))
    if config.ema:
        found.append((memory.parts["EMA"], "ema: 0"))
    found.sort(reverse=True)
    return [f"{text} (about {gigabytes(saved)} less)" for saved, text in found if saved > 0]


def explain(memory: Memory, size: Size, step: int) -> str:
    """Return the message for a step that did not fit."""
    clips, frames, height, width = size
    return (
        f"out of memory at step {step}; by estimate {clips} x {frames} frames with latents of {width} x {height} need "
        f"{gigabytes(memory.total(*size))}. Change one or more of: "
        + "; ".join(savings(memory, size)[:3])
        + ". Then go on with --resume latest if there is a checkpoint"
    )


def largest_clip(clips: ClipSource, frames: int) -> tuple[int, int, int]:
    """Return frames, height and width of the largest batch of these clips."""
    return max(
        ((min(frames, length), *size) for length, size in zip(clips.lengths, clips.sizes, strict=True)), key=math.prod
    )
