"""The real ComfyUI, imported into the test process.

It computes on the CPU and keeps its folders (models, input, output, user) in a temporary one, so nothing is written
into the ComfyUI under test. `SAV_TEST_DEVICE=cuda` leaves the choice of device to ComfyUI.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from sdxl_anime_video.headless.comfyui import import_comfyui


def _start() -> tuple[Path, Path]:
    """ComfyUI's folder, and the temporary one that it keeps its own in.

    This runs while pytest collects, because test modules import comfy at the top.
    """
    base = Path(tempfile.mkdtemp(prefix="sav-host-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    comfyui = import_comfyui(base, cpu=os.environ.get("SAV_TEST_DEVICE", "cpu") == "cpu")
    import folder_paths
    import nodes

    assert Path(folder_paths.get_output_directory()) == base / "output"
    assert Path(nodes.__file__).parent == comfyui, f"`nodes` is {nodes.__file__}, not ComfyUI's"
    return comfyui, base


COMFYUI, BASE = _start()


@pytest.fixture(scope="session")
def comfyui_dir() -> Path:
    """The folder of the ComfyUI under test."""
    return COMFYUI


@pytest.fixture(scope="session")
def comfyui_base() -> Path:
    """Its base directory: models/, input/, output/, temp/, user/."""
    return BASE


@pytest.fixture(autouse=True)
def _unload_models():
    """Leaves no model of one test loaded for the next."""
    yield
    import comfy.model_management

    comfy.model_management.unload_all_models()


@pytest.fixture
def output(tmp_path):
    """An output folder of the test's own."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def resume_id(request):
    """A `resume_id` for one test; its finished segments are removed after the test."""
    from resuming import runs

    yield "test-" + request.node.name.split("[")[0].replace("_", "-")[:50]
    shutil.rmtree(runs(), ignore_errors=True)
