"""A real ComfyUI server with our pack, reached over HTTP and WebSocket."""

import json

import pytest

from sdxl_anime_video.headless.client import ComfyClient
from sdxl_anime_video.headless.comfyui import find_comfyui
from sdxl_anime_video.headless.graph import only
from sdxl_anime_video.headless.server import ComfyServer, log_faults


@pytest.fixture(scope="session")
def server():
    """ComfyUI on the CPU, with its default cache."""
    with ComfyServer(find_comfyui(), flags=["--cpu"], env={"OMP_NUM_THREADS": "1"}) as running:
        yield running


@pytest.fixture(scope="session")
def server_without_cache():
    """The same, but every node runs every time."""
    with ComfyServer(find_comfyui(), flags=["--cpu", "--cache-none"], env={"OMP_NUM_THREADS": "1"}) as running:
        yield running


@pytest.fixture
def client(server):
    with ComfyClient(server.url) as connected:
        yield connected


@pytest.fixture
def quiet_log(server):
    """The test must leave no exception and no error in the server's log.

    "no match" is what core says while it loads a ControlNet smaller than any that it knows, as the toon world's are.
    """
    before = len(server.log())
    yield
    assert [line for line in log_faults(server.log()[before:]) if "no match {" not in line] == []


@pytest.fixture(scope="session")
def demo_workflow(repository):
    """The demo as the editor saves it."""
    return json.loads((repository / "workflows" / "demo.json").read_text("utf-8"))


@pytest.fixture
def demo_prompt(repository):
    """The demo as an API prompt, cut down to 4 frames of 64 pixels and 2 steps."""
    prompt = json.loads((repository / "workflows" / "api" / "demo.json").read_text("utf-8"))
    only(prompt, "SAV_EmptyVideoLatent").update(frames=4, width=64, height=64)
    only(prompt, "SAV_BestHQSigmas").update(steps=2)
    return prompt
