"""A ComfyUI graph in API form, node id -> {class_type, inputs}: what leads to a node, and which files it names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]
_MODEL_FILE = re.compile(r"[^\n]+\.(?:safetensors|sft|ckpt|pt|pth|bin|gguf)", re.IGNORECASE)
_TAGGED = re.compile(r"<\s*(?:lora|lyco)\s*:([^:<>]+)", re.IGNORECASE)


def leads_to(graph: Graph, node: str, socket: str) -> list[str]:
    """All nodes that an input of a node depends on, nearest first; empty if it is not linked."""
    waiting = [_source(graph, graph.get(node, {}).get("inputs", {}).get(socket))]
    found: dict[str, None] = {}
    while waiting:
        one = waiting.pop(0)
        if one is not None and one not in found:
            found[one] = None
            waiting += [_source(graph, value) for value in graph[one].get("inputs", {}).values()]
    return list(found)


def _source(graph: Graph, value: Any) -> str | None:
    """The node that a linked input comes from."""
    linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
    return value[0] if linked and value[0] in graph else None


def model_files(graph: Graph, nodes: list[str]) -> list[str]:
    """Names of files of weights in the inputs of nodes, and those that LoRA tags give, each once.

    Entries that a loader of several files keeps as a group with `on` count if that is set.
    """
    found: dict[str, None] = {}
    for node in nodes:
        for text in _texts(graph[node].get("inputs", {})):
            names = [text] if _MODEL_FILE.fullmatch(text) else [name.strip() for name in _TAGGED.findall(text)]
            found |= dict.fromkeys(names)
    return list(found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and value.get("on") is not False:
        for part in value.values():
            yield from _texts(part)
