"""The converter from editor graphs to API prompts, on graphs small enough to read."""

import copy

import pytest

from sdxl_anime_video.workflows.to_api import GraphError, to_api

SCHEMAS = {
    "Source": {"display_name": "Source", "input": {}, "input_order": {}},
    "Filter": {
        "display_name": "A filter",
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "text": ["STRING", {"dynamicPrompts": True}],
            },
            "optional": {"kind": [["a", "b"]], "forced": ["FLOAT", {"forceInput": True}]},
        },
        "input_order": {"required": ["model", "seed", "text"], "optional": ["kind", "forced"]},
    },
    "Picture": {
        "display_name": "A picture",
        "input": {"required": {"image": [["a.png"], {"image_upload": True}]}},
        "input_order": {"required": ["image"]},
    },
}


def node(number, kind, order, *, link=None, values=(), mode=0, outputs=("MODEL",), **more):
    inputs = [{"name": "model", "type": "MODEL", "link": link}] if kind != "Source" else []
    return {
        "id": number,
        "type": kind,
        "order": order,
        "mode": mode,
        "inputs": inputs,
        "outputs": [{"name": name, "type": name} for name in outputs],
        "widgets_values": list(values),
        **more,
    }


def chain():
    """Source 1 -> Filter 2 -> Filter 3, and a note."""
    return {
        "nodes": [
            node(1, "Source", 0),
            node(2, "Filter", 1, link=1, values=[5, "fixed", "hello", "b"]),
            node(3, "Filter", 2, link=2, values=[6, "randomize", "again", "a"], title="Mine"),
            node(4, "MarkdownNote", 3, values=["read me"]),
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "MODEL"]],
    }


def test_names_widgets_and_follows_links():
    assert to_api(chain(), SCHEMAS) == {
        "1": {"class_type": "Source", "inputs": {}, "_meta": {"title": "Source"}},
        "2": {
            "class_type": "Filter",
            "inputs": {"seed": 5, "text": "hello", "kind": "b", "model": ["1", 0]},
            "_meta": {"title": "A filter"},
        },
        "3": {
            "class_type": "Filter",
            "inputs": {"seed": 6, "text": "again", "kind": "a", "model": ["2", 0]},
            "_meta": {"title": "Mine"},
        },
    }


def test_bypassed_and_reroute_nodes_are_looked_through():
    graph = chain()
    graph["nodes"][1]["mode"] = 4
    graph["nodes"].append(node(9, "Reroute", 1, link=1))
    graph["links"][1] = [2, 9, 0, 3, 0, "MODEL"]
    assert to_api(graph, SCHEMAS)["3"]["inputs"]["model"] == ["1", 0]
    graph["links"][1] = [2, 2, 0, 3, 0, "MODEL"]
    prompt = to_api(graph, SCHEMAS)
    assert "2" not in prompt
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_a_muted_node_takes_its_links_along():
    graph = chain()
    graph["nodes"][1]["mode"] = 2
    prompt = to_api(graph, SCHEMAS)
    assert set(prompt) == {"1", "3"}
    assert "model" not in prompt["3"]["inputs"]


@pytest.mark.parametrize("values", [["a.png"], ["a.png", "image"]])
def test_the_upload_button_is_no_input(values):
    graph = {"nodes": [node(1, "Picture", 0, values=values)], "links": []}
    assert to_api(graph, SCHEMAS)["1"]["inputs"] == {"image": "a.png"}


def test_every_graph_has_a_twin_and_a_thumbnail(repository):
    folder = repository / "workflows"
    names = {path.stem for path in folder.glob("*.json")}
    assert names == {path.stem for path in folder.glob("*.jpg")} == {path.stem for path in folder.glob("api/*.json")}


def _unknown(graph):
    graph["nodes"][0]["type"] = "Nowhere"


def _subgraph(graph):
    graph["definitions"] = {"subgraphs": [{"id": "x"}]}


def _random_prompt(graph):
    graph["nodes"][1]["widgets_values"][2] = "{a|b}"


def _too_few(graph):
    graph["nodes"][1]["widgets_values"].pop()


def _too_many(graph):
    graph["nodes"][1]["widgets_values"].append(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_unknown, "Node 1: the server does not know 'Nowhere'"),
        (_subgraph, "subgraphs"),
        (_random_prompt, "Node 2 .*random"),
        (_too_few, "Node 2 .*no value for 'kind'"),
        (_too_many, "Node 2 .*1 values too many"),
    ],
)
def test_what_it_cannot_do_is_refused(spoil, message):
    graph = copy.deepcopy(chain())
    spoil(graph)
    with pytest.raises(GraphError, match=message):
        to_api(graph, SCHEMAS)
