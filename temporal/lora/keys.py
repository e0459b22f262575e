"""Names of a LoRA's tensors: `<module>.<part>` as kohya, diffusers, PEFT and LyCORIS write them.

ComfyUI's own loader knows kohya's and LyCORIS' names, and the names with `processor` that diffusers wrote until 2023.
Today's names of diffusers and PEFT (`unet.mid_block...to_q.lora_A.weight`) match no attention of an SDXL model in it,
so `core_name` translates them.
"""

import re
from collections.abc import Iterable

_PARTS = (
    r"\.lora_(?:up|down|mid)\.weight|\.lora(?:_linear_layer)?\.(?:up|down)\.weight|_lora\.(?:up|down)\.weight"
    r"|\.lora_[AB](?:\.[\w-]+)?\.weight|\.lora_magnitude_vector(?:\.[\w-]+)?(?:\.weight)?|\.alpha|\.dora_scale"
    r"|\.hada_(?:w[12]_[ab]|t[12])|\.lokr_(?:w[12](?:_[ab])?|t2)|\.oft_blocks|\.rescale|\.[ab][12]\.weight"
    r"|\.diff|\.diff_b|\.[wb]_norm|\.set_weight|\.reshape_weight"
)
_KEY = re.compile(rf"(.+?)({_PARTS})")
_UP = re.compile(r"\.lora_B\b.*|[._]lora(?:_linear_layer)?\.up\.weight")
_DOWN = re.compile(r"\.lora_A\b.*|[._]lora(?:_linear_layer)?\.down\.weight")
_UNET = re.compile(r"(?:down_blocks|up_blocks|mid_block|time_embedding|add_embedding)\.|conv_(?:in|out)$")
_PREFIXES = (("unet.", "lora_unet_"), ("text_encoder.", "lora_te1_"), ("text_encoder_2.", "lora_te2_"))
_PEFT = "base_model.model."


class LoraError(ValueError):
    """A file is no LoRA that works here. The message continues a sentence that begins with the file's name."""


def split_key(key: str) -> tuple[str, str] | None:
    """Return (module, part) of a LoRA's key, the part as kohya names it (`lora_up.weight`); None for any other key."""
    match = _KEY.fullmatch(key)
    if not match:
        return None
    module, part = match.groups()
    if _UP.fullmatch(part):
        return module, "lora_up.weight"
    return module, "lora_down.weight" if _DOWN.fullmatch(part) else part.removeprefix(".")


def core_name(module: str) -> str:
    """Return kohya's name, which ComfyUI knows, for a module of an SDXL pipeline; any other name unchanged."""
    bare = module.removeprefix(_PEFT)
    short = "lora_unet_" if _UNET.match(bare) else ""
    for prefix, name in _PREFIXES:
        if bare.startswith(prefix):
            short, bare = name, bare.removeprefix(prefix).removeprefix(_PEFT)
    if not short:
        return module
    bare = re.sub(r"\.to_out$", ".to_out.0", bare.replace(".processor.", "."))
    return short + bare.replace(".", "_")


def core_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> the name under which ComfyUI's loader finds it.

    Raises LoraError for two keys of one name, and for PEFT's DoRA because ComfyUI would apply it without magnitudes.
    """
    found: dict[str, str] = {}
    for key in keys:
        parts = split_key(key)
        if parts and parts[1].startswith("lora_magnitude_vector"):
            raise LoraError("is a DoRA in PEFT's format, which ComfyUI cannot load. Save it in kohya's format.")
        found[key] = f"{core_name(parts[0])}.{parts[1]}" if parts else key
    if len(set(found.values())) < len(found):
        raise LoraError("holds several LoRAs in one file. Save each of them on its own.")
    return found
