"""A real Chromium on a real ComfyUI server.

Without a browser these tests are skipped, and say so. `SAV_CHROMIUM` names another executable.
"""

import json
import os
import shutil
from itertools import chain
from pathlib import Path

import pytest

import toon_companions
from sdxl_anime_video.headless.client import ComfyClient
from sdxl_anime_video.headless.comfyui import find_comfyui
from sdxl_anime_video.headless.server import ComfyServer

CHROMIUM = os.environ.get("SAV_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
_ERROR_SIGNS = ", ".join(  # of front ends 1.25 to 1.49
    [
        ".p-toast-message-error",
        ".node-error",
        ".comfy-error-report",
        ".comfy-missing-nodes",
        "[data-testid=error-overlay]",
        "[data-testid=error-dialog]",
    ]
)
_READY = """() => window.app?.extensionManager
    && 'SAV_DemoModel' in (window.LiteGraph?.registered_node_types ?? {})"""


# Files that the SDXL graphs name. Here they are empty: newer front ends report a graph's missing files when it opens.
_NAMED_FILES = {
    "checkpoints": ["sd_xl_base_1.0.safetensors"],
    "loras": ["style.safetensors", "flat_color.safetensors"],
    "temporal_adapters": ["sdxl_temporal_adapter.safetensors"],
    "upscale_models": ["RealESRGAN_x4plus_anime_6B.pth"],
    "animatediff_models": ["mm_sdxl_v10_beta.ckpt"],
    "controlnet": ["OpenPoseXL2.safetensors"],
}
_INPUT = "example.png"  # comes with ComfyUI


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """ComfyUI with our pack, on the CPU."""
    folder = tmp_path_factory.mktemp("models")
    files = {kind: [folder / name for name in names] for kind, names in _NAMED_FILES.items()}
    for file in chain.from_iterable(files.values()):
        file.touch()
    with ComfyServer(find_comfyui(), flags=["--cpu"], model_files=files) as running:
        shutil.copy(running.comfy_dir / "input" / _INPUT, running.base / "input")
        toon_companions.write_videos(running.base / "input")
        yield running


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or set SAV_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["classic", "nodes2"])
def opened(request, chromium, server):
    """ComfyUI's editor, open and idle, in classic and in Nodes 2.0 rendering."""
    nodes2 = request.param == "nodes2"
    with ComfyClient(server.url) as client:
        client.set_setting("Comfy.VueNodes.Enabled", nodes2)
        client.set_setting("Comfy.TutorialCompleted", True)
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(120_000)  # a busy machine draws slowly
    editor = Editor(page)
    try:
        page.goto(server.url)
        page.wait_for_function(_READY)
        page.wait_for_load_state("networkidle")
        if nodes2 and page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')") is not True:
            pytest.skip("this front end has no Nodes 2.0 rendering")
        yield editor
    finally:
        page.close()


@pytest.fixture
def editor(opened):
    """The editor with an empty graph and without complaints."""
    opened.page.evaluate("() => app.graph.clear()")
    opened.faults.clear()  # a fresh server lacks the user's files, which the page logs as errors while it loads
    return opened


class Editor:
    """The page, with what it complained about."""

    def __init__(self, page):
        self.page = page
        self.faults = []
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("console", self._console)

    def _console(self, message):
        # front ends ask public hosts about nodes and models of any graph, which the server forbids them
        if message.type == "error" and "https://" not in message.text:
            self.faults.append(f"console: {message.text} {message.location.get('url', '')}")

    def load(self, graph, name):
        """Opens a graph as the user does from a file."""
        self.page.evaluate("([graph, name]) => app.loadGraphData(graph, true, true, name)", [graph, name])
        self.page.wait_for_timeout(500)  # drawing, and toasts that follow it

    def missing_types(self, graph):
        """Node types of a graph that the front end does not know."""
        types = sorted({node["type"] for node in graph["nodes"]})
        return self.page.evaluate("types => types.filter(type => !(type in LiteGraph.registered_node_types))", types)

    def prompt(self):
        """What the page would send to /prompt, less the picture of a video, which some front ends count as an input."""
        found = json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))
        for node in found.values():
            node["inputs"].pop("video-preview", None)
        return found

    def overlaps(self):
        """Pairs of nodes, by type, that lie on one another as they are drawn."""
        return self.page.evaluate("""() => {
            const boxes = app.graph.nodes.map(node => [node.type, ...node.getBounding(new Float32Array(4))]);
            const apart = (p, q, axis) => p[axis] + p[axis + 2] <= q[axis] || q[axis] + q[axis + 2] <= p[axis];
            const pairs = boxes.flatMap((box, i) => boxes.slice(0, i).map(other => [box, other]));
            return pairs.filter(([p, q]) => !apart(p, q, 1) && !apart(p, q, 2)).map(([p, q]) => [p[0], q[0]]);
        }""")

    def complaints(self):
        """Error toasts, error dialogs, marked nodes, console and page errors."""
        return self.faults + self.page.locator(_ERROR_SIGNS).all_inner_texts()

    def set_widget(self, node_type, widget, value):
        """Sets a widget of the one node of a type."""
        self.page.evaluate(
            """([type, name, value]) => {
                const node = app.graph.nodes.find(node => node.type === type);
                node.widgets.find(widget => widget.name === name).value = value;
            }""",
            [node_type, widget, value],
        )


@pytest.fixture(scope="session")
def graphs(repository: Path):
    """Our graphs by name: (editor graph, API twin)."""
    folder = repository / "workflows"
    return {
        path.stem: (json.loads(path.read_text("utf-8")), json.loads((folder / "api" / path.name).read_text("utf-8")))
        for path in folder.glob("*.json")
    }
