"""The real ComfyUI, imported into the test process.

It computes on the CPU and keeps its folders (models, input, output, user) in a temporary one, so nothing is written
into the ComfyUI under test. `SAV_TEST_DEVICE=cuda` leaves the choice of device to ComfyUI.
"""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from sdxl_anime_video.demo.run.comfyui import find_comfyui

COMFYUI = find_comfyui()


def _import_comfyui() -> Path:
    """Makes ComfyUI importable with the settings of `main.py --cpu --base-directory TMP`; returns TMP.

    This happens while pytest collects, because test modules import comfy at their top. ComfyUI reads no command line
    unless main.py asks it to, so pytest's own arguments stay pytest's.
    """
    sys.path.insert(0, str(COMFYUI))
    from comfy.cli_args import args

    base = Path(tempfile.mkdtemp(prefix="sav-host-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (base / name).mkdir()
    args.base_directory = str(base)
    args.cpu = os.environ.get("SAV_TEST_DEVICE", "cpu") == "cpu"
    args.disable_api_nodes = True
    args.database_url = "sqlite:///:memory:"

    import folder_paths

    assert Path(folder_paths.get_output_directory()) == base / "output"
    importlib.import_module("utils.extra_config")  # as main.py: before nodes puts comfy/, with a utils.py, ahead

    import nodes

    assert Path(nodes.__file__).parent == COMFYUI, f"`nodes` is {nodes.__file__}, not ComfyUI's"
    return base


BASE = _import_comfyui()


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
