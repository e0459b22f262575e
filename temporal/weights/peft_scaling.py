"""PEFT's scaling of LoRAs: the settings that stand beside the tensors, and each layer's factor from them.

PEFT multiplies a layer's change `up @ down` by `lora_alpha / r`, with `use_rslora` by `lora_alpha / sqrt(r)`
(peft.tuners.lora.layer). `alpha_pattern` and `rank_pattern` give single layers values of their own. The settings are
the file `adapter_config.json` beside PEFT's `adapter_model.safetensors`, or in files of diffusers the metadata
`lora_adapter_metadata`, where each name has a prefix, as in `unet.lora_alpha`.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .header import WeightsFileError
from .listing import quoted

Settings = Mapping[str, Any]
_MODELS = ("unet.", "text_encoder.", "text_encoder_2.")
_WRAPPERS = re.compile(rf"^(?:{'|'.join(map(re.escape, (*_MODELS, 'base_model.model.')))})+")


def read_settings(path: Path, metadata: Mapping[str, str]) -> Settings:
    """PEFT's settings for a file of weights, empty if there are none. Raises WeightsFileError for unreadable ones."""
    text = metadata.get("lora_adapter_metadata")
    beside = path.with_name("adapter_config.json")
    try:
        if text is None and path.stem == "adapter_model" and beside.is_file():
            text = beside.read_text("utf-8")
        return dict(json.loads(text or "{}"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise WeightsFileError(f"has settings of PEFT that cannot be read ({error}). Export it again.") from None


def scaling(settings: Settings, layer: str, rank: int) -> float:
    """The factor of a layer's change, 1 where the settings name no alpha for it.

    layer: its name in the file; rank: of its tensors, where the settings name none.

    Raises WeightsFileError for settings that are no positive numbers, and for patterns that are regular expressions:
    PEFT allows these, but a stranger's expression can keep a program busy for ever.
    """
    model = next((prefix for prefix in _MODELS if layer.startswith(prefix)), "unet.")
    own = {name: settings.get(model + name, settings.get(name)) for name in _NAMES}
    alpha = _of_layer("alpha_pattern", own["alpha_pattern"], layer, own["lora_alpha"])
    r = _of_layer("rank_pattern", own["rank_pattern"], layer, own["r"])
    if alpha is None:
        return 1.0
    r = rank if r is None else r
    if not all(isinstance(number, int | float) and 0 < number < math.inf for number in (alpha, r)):
        raise WeightsFileError(
            f"has settings of PEFT with lora_alpha {quoted(alpha)} and r {quoted(r)} for {layer}, which are no "
            "positive numbers. Export it again."
        )
    return alpha / math.sqrt(r) if own["use_rslora"] else alpha / r


_NAMES = ("lora_alpha", "r", "use_rslora", "alpha_pattern", "rank_pattern")


def _of_layer(field: str, pattern: Any, layer: str, default: Any) -> Any:
    """The value of the first name in a pattern that is the end of a layer's name, or with `^` all of it."""
    if not isinstance(pattern or {}, Mapping):
        raise WeightsFileError(f"has settings of PEFT with {field} {quoted(pattern)}, no table. Export it again.")
    for key, value in (pattern or {}).items():
        name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", name):
            raise WeightsFileError(
                f"has settings of PEFT whose {field} {quoted(key)} is a regular expression, and only names of layers "
                "are read here. Export it with one entry for each layer."
            )
        whole = name in (layer, _WRAPPERS.sub("", layer))
        if whole or (not key.startswith("^") and layer.endswith(f".{name}")):
            return value
    return default
