"""The program that compares a GPU with the CPU, with the CPU in both places and in small."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sdxl_anime_video.benchmarks.gpu_check.__main__ import LIMITS, lines, main

# What makes PyAV absent from a Python that finds this file: the GPU machine may lack it.
NO_AV = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] == "av" else found(name, *rest)
"""


def test_every_line_holds_on_the_cpu_without_pyav(tmp_path, capfd, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(NO_AV)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    av = subprocess.run([sys.executable, "-c", "import av"], capture_output=True, text=True)
    assert "No module named 'av'" in av.stderr
    output = tmp_path / "found" / "gpu_check.json"
    assert main(["--device", "cpu", "--frames", "3", "--steps", "2", "--output", str(output)]) == 0, capfd.readouterr()
    results = json.loads(output.read_text("utf-8"))["results"]
    assert all(result["holds"] for result in results) and {result["mode"] for result in results} == {"fp32", "bf16"}
    said = {result["what"]: result["figure"] for result in results}
    assert {"difference, neutral settings", "difference, chain resumed", "error, control keyframes"} <= said.keys()
    errors = [result["figure"] for result in results if result["mode"] == "bf16"]
    assert len(errors) == 4 and min(errors) > 1e-4  # another precision, so it was another computation


def test_a_line_beyond_its_limit_fails():
    clip = {"plain": torch.ones(2)}
    (error, figure, most), (_, gone, none) = lines(
        "fp16, lowvram", {"latents": {"plain": 1.03 * clip["plain"]}, "exact": {"neutral settings": 1e-7}}, clip
    )
    assert error == "error, plain" and figure == pytest.approx(0.03) and most == LIMITS["fp16"] < figure
    assert gone > none == 0
