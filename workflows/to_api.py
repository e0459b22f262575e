"""Editor graph -> API prompt: what the front end's `graphToPrompt` makes of a saved workflow, without a browser.

    python -m sdxl_anime_video.workflows.to_api            # rewrites workflows/api/*.json from workflows/*.json
    python -m sdxl_anime_video.workflows.to_api --check    # fails when a twin is out of date

A graph stores widget values as a bare list, so the node schemas are needed: they come from `/object_info` of a ComfyUI
server that is started for the purpose. Covered is what our graphs use (plain nodes, notes, reroutes, muted and bypassed
nodes); subgraphs, primitive nodes and random `{a|b}` prompts are refused rather than guessed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import write_whole

FOLDER = Path(__file__).resolve().parent
API_FOLDER = FOLDER / "api"

_NOTES = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_NEVER, _BYPASS = 2, 4  # LiteGraph's modes of a muted and of a bypassed node

Link = tuple[str, int]


class GraphError(ValueError):
    """The graph holds something that cannot be turned into a prompt; the message names the node."""


def to_api(graph: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """API prompt `{node id: {class_type, inputs, _meta}}` of an editor graph (schema 0.4).

    object_info: ComfyUI's `/object_info`. Raises GraphError for an unknown node type and for what is not covered.
    """
    if (graph.get("definitions") or {}).get("subgraphs"):
        raise GraphError("The graph has subgraphs: unpack them first.")
    nodes, links = {node["id"]: node for node in graph["nodes"]}, {link[0]: link for link in graph["links"]}
    prompt = {}
    for node in sorted(graph["nodes"], key=lambda node: node["order"]):
        if node["mode"] in (_NEVER, _BYPASS) or node["type"] in _NOTES or node["type"] == "Reroute":
            continue
        schema = object_info.get(node["type"])
        if schema is None:
            raise GraphError(f"Node {node['id']}: the server does not know {node['type']!r}.")
        inputs = _widget_values(node, schema)
        for socket in node.get("inputs", ()):
            if source := _source(nodes, links, socket.get("link")):
                inputs[socket["name"]] = list(source)
        title = node.get("title") or schema["display_name"] or node["type"]
        prompt[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return prompt


def _source(nodes: dict[int, dict[str, Any]], links: dict[int, list[Any]], link_id: int | None) -> Link | None:
    """(node id, output slot) that feeds a link, once muted, bypassed and reroute nodes are looked through.

    None without a link, and when a muted node or a loose end feeds it.
    """
    if link_id is None:
        return None
    _, origin_id, slot, _, _, _ = links[link_id]
    origin = nodes[origin_id]
    if origin["mode"] == _NEVER:
        return None
    if origin["type"] == "Reroute":
        return _source(nodes, links, origin["inputs"][0].get("link"))
    if origin["mode"] == _BYPASS:
        kind = origin["outputs"][slot]["type"]
        inputs = origin.get("inputs", [])
        through = next((socket for socket in inputs[slot : slot + 1] + inputs if socket["type"] == kind), {})
        return _source(nodes, links, through.get("link"))
    return str(origin_id), slot


def _widget_values(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Names the entries of `widgets_values`: one a widget in schema order; a seed has its "after" mode behind it.

    The editor may save the button that uploads a picture too, as one more entry at the end.
    """
    values = list(node.get("widgets_values", ()))
    named, buttons = {}, 0
    for name, options in _widgets(schema):
        if not values:
            raise GraphError(f"Node {node['id']} ({node['type']}): no value for {name!r}; save the graph again.")
        value = values.pop(0)
        if isinstance(value, str) and options.get("dynamicPrompts") and "{" in value:
            raise GraphError(f"Node {node['id']} ({node['type']}): {name!r} has a random {{a|b}} prompt.")
        named[name] = value
        if options.get("control_after_generate"):
            values.pop(0)
        buttons += bool(options.get("image_upload"))
    if len(values) > buttons:
        raise GraphError(
            f"Node {node['id']} ({node['type']}): {len(values) - buttons} values too many; save the graph again."
        )
    return named


def _widgets(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options) of the inputs that the editor draws as widgets, in its order."""
    for section in ("required", "optional"):
        for name in schema.get("input_order", schema["input"]).get(section, ()):
            kind, *rest = schema["input"][section][name]
            options = rest[0] if rest else {}
            if (isinstance(kind, list) or kind in _WIDGET_TYPES) and not options.get("forceInput"):
                yield name, options


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    from ..headless.client import ComfyClient
    from ..headless.comfyui import find_comfyui
    from ..headless.server import ComfyServer

    parser = argparse.ArgumentParser(prog="to_api", description="Derives workflows/api/*.json from workflows/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a twin is out of date")
    check = parser.parse_args(argv).check
    with ComfyServer(find_comfyui(), flags=["--cpu"]) as server, ComfyClient(server.url) as client:
        object_info = client.object_info()
    stale = []
    for path in sorted(FOLDER.glob("*.json")):
        prompt = to_api(json.loads(path.read_text(encoding="utf-8")), object_info)
        text = json.dumps(prompt, indent=2, ensure_ascii=False) + "\n"
        twin = API_FOLDER / path.name
        if twin.is_file() and twin.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            API_FOLDER.mkdir(exist_ok=True)
            write_whole(twin, text)
    if stale:
        sys.stdout.write(f"{'out of date' if check else 'written'}: {', '.join(stale)}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
