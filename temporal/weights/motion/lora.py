"""Motion LoRAs: low-rank changes of a motion module's matrices (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

A layer's change is `alpha / rank * up @ down`; without an alpha in the file, alpha = rank. The known namings are
AnimateDiff's (`attention_blocks.0.processor.to_q_lora.down.weight`), diffusers' (`attn1.to_q.lora.down.weight`),
PEFT's (`to_q.lora_A.weight`) and that of kohya's scripts (`lora_unet_..._to_q.lora_down.weight`).
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...layers.motion_module import MotionModule, Site
from ..header import WeightsFileError, naming
from ..listing import listed, quoted
from ..peft_scaling import Settings, read_settings, scaling
from ..torch_file import open_weights
from .keys import another_kind

_ROLE = re.compile(
    r"(?P<layer>.+?)(?:(?:_lora|\.lora|\.lora_linear_layer)\.(?P<old>down|up)|\.lora_(?P<new>down|up|A|B)(?:\.[^.]+)?)\.weight"
)
_PREFIX = re.compile(r"^(?:(?:lora_unet|unet|base_model|model|module|diffusion_model|motion_adapter|transformer)_)+")
# A layer of a motion module with underscores for dots, as kohya's scripts write.
_LAYER = re.compile(
    r"(?:(?P<stage>down|up)_blocks_(?P<block>\d+)|mid_block)_(?:motion_modules|temporal_attentions)_(?P<layer>\d+)_"
    r"(?:temporal_transformer_)?(?:(?P<proj>proj_in|proj_out)|transformer_blocks_(?P<deep>\d+)_(?:"
    r"(?:attention_blocks_(?P<n>\d+)|attn(?P<attn>[12]))_(?:processor_)?(?P<to>to_[qkv]|to_out)(?:_0)?"
    r"|ff_net_(?P<ff>0_proj|2)))"
)
_DOWN = ("down", "A")
SD15 = "The published motion LoRAs are all for Stable Diffusion 1.5; one for SDXL has to be trained on an SDXL module."


@dataclass(frozen=True)
class Change:
    """The change of one matrix: `scale * up @ down`, down `[rank in]`, up `[out rank]`."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def silent(self) -> bool:
        """Whether the change is zero."""
        return not (self.scale and self.down.any() and self.up.any())


@dataclass(frozen=True)
class MotionLora:
    """A motion LoRA. name: of its file; changes: name of a weight in MotionModule.state_dict() -> its change."""

    name: str
    changes: Mapping[str, Change]

    def describe(self) -> str:
        """Return a summary in lines of text."""
        ranks = sorted({change.down.shape[0] for change in self.changes.values()})
        scales = sorted({change.scale for change in self.changes.values()})
        places = {key.partition(".transformer_blocks.")[0].partition(".proj_")[0] for key in self.changes}
        return (
            f"motion LoRA: {len(self.changes)} matrices at {len(places)} places\n"
            f"rank: {', '.join(map(str, ranks))}; alpha over rank: {', '.join(f'{scale:g}' for scale in scales)}"
        )


def load_motion_lora(path: str | Path) -> MotionLora:
    """Return the motion LoRA of a file in any of the four namings; no code in it is run. Warn if it changes nothing.

    Raises WeightsFileError, naming the file, for any other file and for a motion LoRA of Stable Diffusion 1.5.
    """
    path = Path(path)
    with naming(path):
        opened = open_weights(path, is_motion_lora_key)
        _refuse_sd15(opened.shapes, opened.metadata)
        state = {key: opened.read(key).clone() for key in opened.shapes}
        lora = MotionLora(path.stem, _changes(state, read_settings(path, opened.metadata)))
    if all(change.silent for change in lora.changes.values()):
        logging.warning("%s: every alpha or matrix in it is zero, so this motion LoRA changes nothing.", path.name)
    return lora


def is_motion_lora_key(key: str) -> bool:
    """Return whether a key belongs to a motion LoRA."""
    layer, part = _split(key)
    return bool(part and _weight(layer))


def patches(module: MotionModule, lora: MotionLora) -> dict[str, tuple[torch.Tensor]]:
    """Return name of a weight -> (its change `[out in]` in fp32,), the form of ComfyUI's add_patches.

    Raises WeightsFileError for keys of the LoRA that the module lacks or has in another shape.
    """
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = []
    for key, change in lora.changes.items():
        shape = (change.up.shape[0], change.down.shape[1])
        if key not in shapes:
            problems.append(f"{key} is not in the module")
        elif shape != shapes[key]:
            problems.append(f"{key} is for {list(shape)} and the module has {list(shapes[key])}")
    if problems:
        raise WeightsFileError(
            f"The motion LoRA {lora.name} does not fit {module.name}: {listed(problems, '; ')}. Use it with the "
            "motion module that it was trained on."
        )
    return {key: (change.scale * (change.up.float() @ change.down.float()),) for key, change in lora.changes.items()}


def _changes(state: Mapping[str, torch.Tensor], settings: Settings) -> dict[str, Change]:
    """Return our weight -> change. settings: PEFT's, for layers without an alpha among the tensors."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    layers: dict[str, str] = {}
    problems = []
    for key, value in state.items():
        layer, part = _split(key)
        ours = _weight(layer)
        if not part or not ours:
            problems.append(f"unknown key {key}")
        elif not _sound(part, value):
            problems.append(f"{key} holds NaN, infinity or no weights at all")
        elif part in parts.get(ours, {}):
            problems.append(f"{key} is there twice, under another name")
        else:
            parts.setdefault(ours, {})[part] = value.flatten(1) if value.ndim > 2 else value  # a 1x1 convolution's
            layers[ours] = layer
    if not any(map(is_motion_lora_key, state)) and (kind := another_kind(state, "a motion LoRA")):
        raise WeightsFileError(kind)
    changes = {}
    for ours, found in parts.items():
        down, up = found.get("down"), found.get("up")
        if down is None or up is None:
            problems.append(f"{ours} has {' and '.join(found)} without {'down' if down is None else 'up'}")
        elif down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
            problems.append(f"{ours} has down {list(down.shape)} and up {list(up.shape)}, of different ranks or none")
        else:
            rank = down.shape[0]
            scale = float(found["alpha"]) / rank if "alpha" in found else scaling(settings, layers[ours], rank)
            changes[ours] = Change(down, up, scale)
    if problems or not changes:
        raise WeightsFileError(f"is no motion LoRA that can be read whole: {listed(problems, '; ') or 'it is empty'}.")
    return changes


def _sound(part: str, value: torch.Tensor) -> bool:
    """Return whether a tensor has finite numbers; an alpha is one number, and kohya's scripts may write an integer."""
    right = value.numel() == 1 if part == "alpha" else value.is_floating_point()
    return right and bool(value.float().isfinite().all())


def _split(key: str) -> tuple[str, str | None]:
    """Return (layer, "down" | "up" | "alpha") of a LoRA's key; the part is None for any other key."""
    if key.endswith(".alpha"):
        return key.removesuffix(".alpha"), "alpha"
    match = _ROLE.fullmatch(key)
    if match is None:
        return key, None
    return match["layer"], "down" if (match["old"] or match["new"]) in _DOWN else "up"


def _weight(layer: str) -> str | None:
    """Return the name in MotionModule.state_dict() of a layer's weight, for any naming; None for other layers."""
    match = _layer(layer)
    if match is None:
        return None
    if match["proj"]:
        part = match["proj"]
    elif match["ff"]:
        part = f"transformer_blocks.{match['deep']}.ff.net.{match['ff'].replace('_', '.')}"
    else:
        number = match["n"] or int(match["attn"]) - 1
        to = "to_out.0" if match["to"] == "to_out" else match["to"]
        part = f"transformer_blocks.{match['deep']}.attention_blocks.{number}.{to}"
    return f"{_site(match).path}.{part}.weight"


def _layer(layer: str) -> re.Match[str] | None:
    return _LAYER.fullmatch(_PREFIX.sub("", layer.replace(".", "_")))


def _site(match: re.Match[str]) -> Site:
    return Site(match["stage"] or "mid", int(match["block"] or 0), int(match["layer"]))


def _refuse_sd15(keys: Iterable[str], metadata: Mapping[str, str]) -> None:
    """Raise WeightsFileError for a LoRA of Stable Diffusion 1.5, by a fourth UNet level or by its metadata."""
    sites = {_site(match) for key in keys if (match := _layer(_split(key)[0]))}
    if any(site.block == 3 for site in sites):
        why = "it changes a fourth level, and SDXL's UNet has three"
    else:
        said = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
        if not re.search(r"sd_v[12]|sd1|stable-diffusion-v[12]", said):
            return
        why = f"its metadata say {quoted(said.strip())}"
    raise WeightsFileError(f"is a motion LoRA for Stable Diffusion 1.5: {why}. {SD15}")
