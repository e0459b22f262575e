"""Description of a LoRA file from its header: format, layers, base model, trigger words. Hashes of the file.

The width of the text embedding in cross-attention shows the base model: 2048 for SDXL, 768 for Stable Diffusion 1.
The metadata are those of kohya's sd-scripts (`ss_...`) and of Stability's ModelSpec (`modelspec....`).
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..weights.header import DOWNLOAD_AGAIN, Header, TensorInfo
from ..weights.known_files import recognise
from ..weights.listing import listed, one_line
from .keys import LoraError, split_key

SDXL = "SDXL"
EARLIER = "Stable Diffusion 1 or 2"
_WIDTHS = {2048: SDXL, 768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner"}
# Names of modules outside the UNets of the Stable Diffusion family.
_OTHERS = (
    (r"double_blocks|single_blocks|single_transformer_blocks|double_stream|single_stream", "FLUX or Hunyuan Video"),
    (r"joint_blocks|lora_transformer_|^transformer\.", "a diffusion transformer such as Stable Diffusion 3"),
    (r"(?:^|_|\.)blocks[._]\d+[._](?:cross|self)_attn", "a video model such as Wan"),
    (r"lora_prior_", "Stable Cascade"),
)
# Attention that SDXL lacks and its predecessors have, and their only text encoder.
_PLACES = (
    r"input_blocks[._](?:1|2|10|11)[._]1|output_blocks[._](?:9|10|11)[._]1|down_blocks[._]0[._]attentions|lora_te_text"
)
# in ss_base_model_version or modelspec.architecture; the first match decides
_SAID = (
    (r"refiner", "SDXL's refiner"),
    (r"xl", SDXL),
    (r"flux", "FLUX"),
    (r"sd_?3|stable-diffusion-(?:v)?3", "Stable Diffusion 3"),
    (r"sd_?v?2|stable-diffusion-v2", "Stable Diffusion 2"),
    (r"sd_?v?1|stable-diffusion-v1", "Stable Diffusion 1.5"),
)
_CROSS = re.compile(r"attn2[._](?:processor[._])?to_[kv]")
_MOST_WORDS = 8
_SPEED = re.compile(r"(?<![a-z])(?:lcm|lightning|hyper(?:sd)?|turbo|dmd2?|tcd|pcm)(?![a-z])", re.IGNORECASE)
_LCM = re.compile(r"(?<![a-z])lcm(?![a-z])|latent.?consistency", re.IGNORECASE)


@dataclass(frozen=True)
class LoraFile:
    """Description of a LoRA file.

    naming: the program whose key names it uses. kinds: "LoRA", "LoCon", "LoHa"... ranks: lowest and highest, or empty.
    context: width of the text embedding in its cross-attention, None without one.
    base, base_from: the base model, None if unknown, and the evidence for it.
    trained_on: name of the checkpoint in its metadata.
    layers: module -> (rows, values a row) of its matrix, None where the shapes do not determine them.
    unread: keys that belong to no LoRA. triggers, triggers_from: trigger words and their source.
    title: title in its metadata. said_hash: hash of its weights after training, in its metadata.
    """

    naming: str
    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    context: int | None
    base: str | None
    base_from: str
    trained_on: str
    layers: Mapping[str, tuple[int, int] | None]
    unread: tuple[str, ...]
    triggers: tuple[str, ...]
    triggers_from: str
    title: str
    said_hash: str


def describe(header: Header) -> LoraFile:
    """Return the description of a file. Raises LoraError for a file that is no LoRA or has incomplete layers."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    unread = []
    for key, info in header.tensors.items():
        parts = split_key(key)
        if parts:
            modules.setdefault(parts[0], {})[parts[1]] = info
        else:
            unread.append(key)
    modules = {name: parts for name, parts in modules.items() if parts.keys() - {"alpha"}}
    kind = recognise(header.tensors)
    if kind and kind.what != "a LoRA" and (not modules or "motion" in kind.what):
        raise LoraError(f"is {kind.what}, not a LoRA. {kind.remedy}")
    if not modules:
        raise LoraError(f"has no key of a LoRA (its keys: {listed(unread) or 'none at all'}). Choose a LoRA.")
    layers = {name: _size(name, parts) for name, parts in modules.items()}
    context = next((size[1] for name, size in layers.items() if size and _CROSS.search(name)), None)
    base, base_from = _base(layers, context, header.metadata)
    triggers, triggers_from = _triggers(header.metadata)
    ranks = {
        info.shape[0] for parts in modules.values() for part, info in parts.items() if part in _RANKED and info.shape
    }
    return LoraFile(
        next((naming for start, naming in _NAMINGS.items() if any(n.startswith(start) for n in layers)), "other"),
        _kinds(modules),
        tuple(sorted({min(ranks), max(ranks)})) if ranks else (),
        context,
        base,
        base_from,
        one_line(header.metadata.get("ss_sd_model_name", ""), 60),
        layers,
        tuple(unread),
        triggers,
        triggers_from,
        title_of(header.metadata),
        header.metadata.get("sshs_model_hash", ""),
    )


_RANKED = ("lora_down.weight", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")


def _size(module: str, parts: Mapping[str, TensorInfo]) -> tuple[int, int] | None:
    """Return a layer's (rows, values a row), None where its parts do not give them. Raises LoraError for a half."""
    shapes = {part: info.shape for part, info in parts.items()}
    if math.prod(shapes.get("alpha", ())) != 1:
        raise LoraError(f"has {module}.alpha of the shape {list(shapes['alpha'])}, not one number. {DOWNLOAD_AGAIN}")
    for up, down, middle in _PAIRS:
        if (up in shapes) != (down in shapes):
            raise LoraError(f"has {up if up in shapes else down} of {module} without its other half. {DOWNLOAD_AGAIN}")
        if up not in shapes:
            continue
        one, other, kernel = shapes[up], shapes[down], shapes.get(middle, ())
        if min(len(one), len(other)) < 2 or 0 in (*one, *other):
            raise LoraError(f"has a layer {module} of the shapes {list(one)} and {list(other)}. {DOWNLOAD_AGAIN}")
        if not kernel and math.prod(one[1:]) != other[0]:  # core would skip the layer, with a line in its log
            raise LoraError(
                f"has a layer {module} whose halves {list(one)} and {list(other)} differ in rank. {DOWNLOAD_AGAIN}"
            )
        rows = one[1] if up == "hada_w1_a" and kernel else one[0]
        return rows, math.prod(other[1:]) * math.prod(kernel[2:])
    if shapes.get("diff"):
        return shapes["diff"][0], math.prod(shapes["diff"][1:])
    return _kronecker(module, shapes)


_PAIRS = (("lora_up.weight", "lora_down.weight", "lora_mid.weight"), ("hada_w1_a", "hada_w1_b", "hada_t1"))


def _kronecker(module: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Return the size of LoKr's Kronecker product of two matrices, each whole or a product `a @ b`.

    Raises LoraError for a missing one.
    """
    if "lokr_t2" in shapes or not any(name.startswith("lokr_") for name in shapes):
        return None
    rows = columns = 1
    for name in ("lokr_w1", "lokr_w2"):
        first, last = shapes.get(name) or shapes.get(f"{name}_a"), shapes.get(name) or shapes.get(f"{name}_b")
        if not first or not last:
            raise LoraError(f"has a layer {module} without a whole {name}. {DOWNLOAD_AGAIN}")
        rows, columns = rows * first[0], columns * math.prod(last[1:])
    return rows, columns


_NAMINGS = {
    "base_model": "PEFT",
    "unet": "diffusers",
    "text_encoder": "diffusers",
    "lycoris": "LyCORIS",
    "lora_unet": "kohya",
    "lora_te": "kohya",
}


def _kinds(modules: Mapping[str, Mapping[str, TensorInfo]]) -> tuple[str, ...]:
    found = set()
    for parts in modules.values():
        down = parts.get("lora_down.weight")
        if down:
            found.add("LoCon" if "lora_mid.weight" in parts or max(down.shape[2:], default=1) > 1 else "LoRA")
        names = "".join(parts)
        found |= {kind for mark, kind in _MARKS.items() if mark in names}
    return tuple(sorted(found - {"LoRA"} if "LoCon" in found else found)) or ("unknown",)


_MARKS = {"hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "dora_": "DoRA", "diff": "full difference", "norm": "norms"}


def _base(modules: Iterable[str], context: int | None, metadata: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the base model and its evidence: shapes first because they cannot lie, then names, then metadata."""
    if context in _WIDTHS:
        return _WIDTHS[context], f"cross-attention takes {context} values a token"
    for pattern, base in _OTHERS:
        if any(re.search(pattern, name) for name in modules):
            return base, "names of its layers"
    said = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture") or ""
    for pattern, base in _SAID:
        if re.search(pattern, said.lower()):
            return base, f"its metadata say {one_line(said, 60)}"
    if any(re.search(_PLACES, name) for name in modules):
        return EARLIER, "places of its layers"
    return None, ""


def _triggers(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the trigger words, best first, and their source."""
    phrase = metadata.get("modelspec.trigger_phrase")
    if phrase:
        return (one_line(phrase, 200),), "modelspec.trigger_phrase"
    counts: Counter[str] = Counter()
    try:
        for tags in json.loads(metadata.get("ss_tag_frequency") or "{}").values():
            counts.update({one_line(tag, 60): int(count) for tag, count in tags.items() if tag.strip()})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return (), ""  # metadata may hold anything
    return tuple(tag for tag, _ in counts.most_common(_MOST_WORDS)), "most frequent tags in training"


def title_of(metadata: Mapping[str, str]) -> str:
    """Return the title in a file's metadata, or an empty text."""
    return one_line(metadata.get("modelspec.title") or metadata.get("ss_output_name") or "", 60)


def hashes(path: Path, progress: Callable[[int], None] = lambda done: None) -> tuple[str, str]:
    """Return the SHA-256 of a safetensors file and of its weights alone, as hexadecimal digits.

    The second omits the header, so editing metadata does not change it. kohya's sd-scripts record it as
    `sshs_model_hash`; AUTOMATIC1111 and Civitai call its first 12 digits AutoV3. progress: called with the bytes read.
    """
    whole, weights = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(int.from_bytes(start, "little"))
        whole.update(start)
        while block := file.read(1 << 22):
            whole.update(block)
            weights.update(block)
            progress(file.tell())
    return whole.hexdigest(), weights.hexdigest()


def is_speed_name(*names: str) -> bool:
    """Return whether one of the names (of a file, a title) is typical of a LoRA or checkpoint for few steps."""
    return any(_SPEED.search(name) for name in names) or is_lcm_name(*names)


def is_lcm_name(*names: str) -> bool:
    """Return whether one of the names means latent consistency, such as lcm-lora-sdxl.safetensors."""
    return any(_LCM.search(name) for name in names)
