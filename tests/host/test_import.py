"""The pack adds little to ComfyUI's start time.

A fresh process imports what ComfyUI has imported when it comes to custom nodes. Each of its forks then loads the pack,
the files of the registry's zip, as ComfyUI does, by path, and reports the processor seconds and the modules that this
added.
"""

import json
import os
import statistics
import subprocess
import sys

import comfy.model_management
import nodes
import pytest

from packages import copy, registry_files

RUNS = 3
LIMIT = 0.3  # seconds
HEAVY = {"accelerate", "av", "controlnet_aux", "cv2", "diffusers", "scipy", "torchvision", "transformers"}
PROGRAM = """
import asyncio, json, os, sys, time
sys.path[0] = COMFYUI
from comfy.cli_args import args
args.cpu, args.disable_api_nodes, args.base_directory, args.database_url = True, True, BASE, "sqlite:///:memory:"
import utils.extra_config  # before nodes, which puts comfy/ and its utils.py ahead, as in main.py
import nodes, server
asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
sys.stdout.flush()
for _ in range(RUNS):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    before, cpu = set(sys.modules), time.process_time()
    loaded = asyncio.run(nodes.load_custom_node(PACK))
    cpu = time.process_time() - cpu
    print(json.dumps({"loaded": loaded, "cpu": cpu, "added": sorted(set(sys.modules) - before)}), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def imports(comfyui_dir, repository, tmp_path_factory):
    """Reports of RUNS processes."""
    base = tmp_path_factory.mktemp("base")
    pack = copy(repository, registry_files(repository), base / "custom_nodes" / "sdxl-anime-video")
    head = f"COMFYUI, BASE, PACK, RUNS = {str(comfyui_dir)!r}, {str(base)!r}, {str(pack)!r}, {RUNS}\n"
    command, env = [sys.executable, "-c", head + PROGRAM], {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()[-RUNS:]]
    assert len(reports) == RUNS
    return reports


def test_comfyui_is_real(comfyui_dir):
    assert nodes.__file__.startswith(str(comfyui_dir))
    assert comfy.model_management.get_torch_device() is not None


def test_import_is_quick(imports):
    assert all(report["loaded"] for report in imports)
    # processor time: the wall clock would measure the tests that run beside this one
    assert statistics.median(report["cpu"] for report in imports) < LIMIT


def test_import_adds_no_heavy_module(imports):
    added = {name.split(".")[0] for report in imports for name in report["added"]}
    assert not added & HEAVY
    assert "torch" not in added
