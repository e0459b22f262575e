"""ControlNets that steer a clip at keyframes, around core's own control objects.

`KeyframedControl` takes the place of a ControlNet in the conditioning. It runs the ControlNet inside it on the frames
with a strength alone, and weighs the residuals frame by frame. It reads the frames of the batch from the frame contract
at every call, so context windows and segments need not cut it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.controlnet
import torch

from ....clip.frames import require_equal_frames
from ..errors import at_node
from ..published import FRAMES_KEY, frames_of, window_rows
from .conds import is_advanced, take_control, tell_advanced

NODE = "Control Keyframes"
Residuals = dict[str, list[torch.Tensor | None]]


class KeyframedControl(comfy.controlnet.ControlBase):
    """A ControlNet of core's (or Advanced-ControlNet's) with a strength and a hint picture for each frame of a clip.

    inner: the ControlNet, with hint and strength set, not chained to another. pictures: index of each frame's hint.
    curve: factor of each frame's residuals, float32 `[frames]`.
    layer_weights: factor of each layer's residuals, shallow to deep and the middle last; empty for all 1.
    """

    def __init__(self, inner: Any, pictures: Sequence[int], curve: torch.Tensor, layer_weights: Sequence[float] = ()):
        super().__init__()
        self.inner, self.pictures, self.curve, self.layer_weights = inner, pictures, curve, tuple(layer_weights)
        self.cuts: dict[tuple, Any] = {}  # copies of `inner` by their frames' hints; last used last

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options) -> Residuals | None:
        """Return the residuals for `x_noisy` `[(passes f) c h w]`; those of frames without strength are 0."""
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        frames = self._frames_at_hand(transformer_options, len(x_noisy) // batched_number)
        strength = self.curve[frames]
        steered = strength.nonzero()[:, 0]
        rows = torch.cat([steered + i * len(frames) for i in range(batched_number)])  # [(passes steered)]
        if len(rows) == 0:
            return previous
        if len(rows) == len(x_noisy):
            told = x_noisy, t, cond
        else:
            told = _take(x_noisy, rows, len(x_noisy)), _take(t, rows, len(t)), _take_all(cond, rows, len(x_noisy))
        found = self._ask([frames[row] for row in steered.tolist()], *told, batched_number, transformer_options)
        if found is None:  # outside its part of the schedule
            return previous
        weights = strength[steered].repeat(batched_number)
        return self.control_merge(self._weigh(found, rows, weights, len(x_noisy)), previous, None)

    def _frames_at_hand(self, options: Mapping[str, Any], batch: int) -> list[int]:
        """Return the places in the clip of a batch's frames. Raises ValueError if `curve` has another length."""
        index, length = _published_frames(options, batch, len(self.curve))
        with at_node(NODE):
            require_equal_frames("its input frames", len(self.curve), "the latent", length)
        return index

    def _ask(self, frames: list[int], x, t, cond, batched_number: int, options: dict[str, Any]) -> Residuals | None:
        """Return the inner ControlNet's residuals for these frames of the clip."""
        if is_advanced(self.inner):
            options = {key: value for key, value in options.items() if key != "ad_params"}
            tell_advanced(options, frames, len(self.curve))
            return self.inner.get_control(x, t, cond, batched_number, options)
        pictures = [self.pictures[frame] for frame in frames]
        key = (*pictures, batched_number)
        cut = self.cuts.pop(key, None) or take_control(self.inner, pictures)
        self.cuts[key] = cut
        while sum(map(len, self.cuts)) > 3 * len(self.curve) + 1 and len(self.cuts) > 1:  # each holds its hints
            self.cuts.pop(next(iter(self.cuts)))
        return cut.get_control(x, t, cond, batched_number, options)

    def _weigh(self, control: Residuals, rows: torch.Tensor, weights: torch.Tensor, batch: int) -> Residuals:
        """Return the residuals of the whole batch, weighed by frame and layer, 0 outside `rows`."""
        layers = _layers(control)
        scales = self.layer_weights or (1.0,) * len(layers)
        if len(layers) != len(scales):
            raise ValueError(
                f"{NODE}: layer_weights has {len(scales)} number(s), but this ControlNet has {len(layers)} layers; "
                "write one for each, shallow to deep and the middle last"
            )
        if not self.layer_weights and len(rows) == batch and bool((weights == 1).all()):
            return control
        weighed: Residuals = {key: [None] * len(values) for key, values in control.items()}
        for ((key, i), found), scale in zip(layers.items(), scales, strict=True):
            whole = found.new_zeros(batch, *found.shape[1:])
            # a T2I adapter may give one row for all frames
            whole[rows.to(found.device)] = found * (weights * scale).to(found).view(-1, *[1] * (found.ndim - 1))
            weighed[key][i] = whole
        return weighed

    def pre_run(self, model, percent_to_timestep_function) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.cuts.clear()
        self.inner.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        super().cleanup()
        self.cuts.clear()
        self.inner.cleanup()

    def copy(self) -> KeyframedControl:
        copied = KeyframedControl(self.inner.copy(), self.pictures, self.curve, self.layer_weights)
        self.copy_to(copied)
        return copied

    def deepclone_multigpu(self, load_device, autoregister=False) -> KeyframedControl:
        """For newer cores that spread a batch over several GPUs."""
        clone = self.copy()
        clone.inner = self.inner.deepclone_multigpu(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = clone
        return clone

    def get_models(self) -> list:
        return [*super().get_models(), *self.inner.get_models()]

    def get_extra_hooks(self) -> list:
        return [*super().get_extra_hooks(), *self.inner.get_extra_hooks()]

    def inference_memory_requirements(self, dtype) -> float:
        return super().inference_memory_requirements(dtype) + self.inner.inference_memory_requirements(dtype)


def control_clip(
    conditionings: Sequence[list],
    control_net: Any,
    hints: torch.Tensor,
    pictures: Sequence[int],
    curve: torch.Tensor,
    strength: float,
    percent_range: tuple[float, float],
    vae: Any = None,
    layer_weights: Sequence[float] = (),
) -> list[list]:
    """Return copies of core's CONDITIONINGs, each with the ControlNet behind those that it has already.

    hints: IMAGE `[N, H, W, 3]`; pictures, curve, layer_weights: see KeyframedControl; percent_range: of the schedule.

    Raises ValueError for a control object without residuals: others cannot be weighed frame by frame.
    """
    if not isinstance(control_net, (comfy.controlnet.ControlNet, comfy.controlnet.T2IAdapter)):
        raise ValueError(f"a {type(control_net).__name__} cannot be weighed frame by frame; apply it with its own node")
    made: dict[Any, KeyframedControl] = {}  # shared by both prompts, or core would run them one after the other

    def behind(previous: Any) -> KeyframedControl:
        if previous not in made:
            inner = control_net.copy()
            shown = hints[list(pictures)] if is_advanced(inner) and len(hints) > 1 else hints
            inner.set_cond_hint(shown.movedim(-1, 1), strength, percent_range, vae=vae)
            made[previous] = KeyframedControl(inner, pictures, curve, layer_weights)
            made[previous].set_previous_controlnet(previous)
        return made[previous]

    return [
        [
            [text, {**info, "control": behind(info.get("control")), "control_apply_to_uncond": False}]
            for text, info in conditioning
        ]
        for conditioning in conditionings
    ]


def _published_frames(options: Mapping[str, Any], batch: int, expected: int) -> tuple[list[int], int]:
    """Return the places of a batch's frames and the clip's length, from the frame contract or from the windows of core
    or AnimateDiff-Evolved; without them, the batch is the clip.

    expected: the clip's length, for older cores, whose windows do not record it.
    """
    published = options.get(FRAMES_KEY)
    if published is not None:
        info = frames_of(options, batch * len(options.get("cond_or_uncond") or (0,)))
        if info.length == published.length:
            return info.index.tolist(), info.length
    elif len(rows := window_rows(options)) == batch:
        return rows, max(getattr(options["context_window"], "total_frames", expected), 1 + max(rows))
    advanced = options.get("ad_params") or {}
    if len(advanced.get("sub_idxs") or ()) == batch:
        return list(advanced["sub_idxs"]), advanced["full_length"]
    return list(range(batch)), batch


def _layers(control: Residuals) -> dict[tuple[str, int], torch.Tensor]:
    """Return each layer's residuals, shallow to deep and the middle last. Core takes each list from its end."""
    places = [("input", i) for i in reversed(range(len(control.get("input", ()))))]
    places += [(key, i) for key in ("output", "middle") for i in range(len(control.get(key, ())))]
    return {(key, i): found for key, i in places if (found := control[key][i]) is not None}


def _take(value: Any, rows: torch.Tensor, batch: int) -> Any:
    """Return these rows of a tensor with a row for each of the batch; other values as they are."""
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == batch:
        return value[rows.to(value.device)]
    return value


def _take_all(cond: Mapping[str, Any], rows: torch.Tensor, batch: int) -> dict[str, Any]:
    return {key: _take(value, rows, batch) for key, value in cond.items()}
