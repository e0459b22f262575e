"""Our graphs in ComfyUI's editor: they open cleanly, equal their API twins, run, play and come back from a clip."""

from pathlib import Path

import pytest

from sdxl_anime_video.headless.client import ComfyClient
from sdxl_anime_video.headless.graph import only, saved_clip, variant

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "workflows").glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_graph_opens_and_equals_its_twin(editor, graphs, name):
    graph, twin = graphs[name]
    assert editor.missing_types(graph) == []
    editor.load(graph, name)
    assert editor.page.evaluate("() => app.graph.nodes.length") == len(graph["nodes"])
    assert editor.prompt() == twin
    assert editor.overlaps() == []
    assert editor.complaints() == []


def test_demo_runs_from_the_page_and_its_clip_plays(editor, graphs):
    graph, _ = graphs["demo"]
    editor.load(graph, "demo")
    editor.set_widget("SAV_BestHQSigmas", "steps", 2)
    editor.set_widget("SAV_EmptyVideoLatent", "frames", 4)
    editor.page.evaluate("() => app.queuePrompt(0, 1)")
    video = editor.page.locator("video").first
    video.wait_for(state="attached", timeout=120_000)
    editor.page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    video.evaluate("video => { video.muted = true; video.loop = true; return video.play(); }")
    before = video.evaluate("video => video.currentTime")
    editor.page.wait_for_function(
        "before => document.querySelector('video').currentTime !== before", arg=before, timeout=10_000
    )
    assert editor.complaints() == []


def test_a_clip_dropped_on_the_page_brings_its_graph_back(editor, server, graphs):
    graph, twin = graphs["demo"]
    # other values than the graph's: what comes back must be the graph, as the page had it
    job = variant(twin, caption="boy, snow", seed=3, strength=1.0, prefix="drop", frames=2, steps=1)
    with ComfyClient(server.url) as client:
        record = saved_clip(client.run(job, graph))
    editor.page.evaluate(
        """async ([record]) => {
            const answer = await fetch('/view?' + new URLSearchParams(record));
            const file = new File([await answer.blob()], record.filename, {type: 'video/mp4'});
            const data = new DataTransfer();
            data.items.add(file);
            document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [{key: record[key] for key in ("filename", "subfolder", "type")}],
    )
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(graph["nodes"]))
    assert editor.prompt() == twin
    assert only(editor.prompt(), "SamplerCustom")["noise_seed"] == only(twin, "SamplerCustom")["noise_seed"]
    assert editor.complaints() == []
