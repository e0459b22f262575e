"""Tags of a clip: a ComfyUI graph in an mp4 that the page can load again.

ComfyUI's page reads the first 64 MiB of a dropped mp4, finds moov/udta/meta, and loads the JSON under the keys
`workflow` and `prompt` (its source: `src/scripts/metadata/isobmff.ts`). FFmpeg writes free keys there with
`use_metadata_tags`. `faststart` moves moov to the front; without it clips above 64 MiB would not load.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

MOVFLAGS = "use_metadata_tags+faststart"


def to_tags(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Return values as text: strings unchanged, other values as JSON."""
    return {key: value if isinstance(value, str) else to_json(value) for key, value in (metadata or {}).items()}


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in ASCII, with null for NaN and infinities.

    JavaScript's parser refuses a whole document for one NaN, and ComfyUI itself puts NaN into prompts (`is_changed` of
    nodes that always run).
    """
    return json.dumps(_finite(value), indent=indent)


def from_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """Parse tags that `to_tags` has written as JSON objects or lists; other tags stay text."""
    return {key: _parsed(text) for key, text in tags.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _parsed(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
