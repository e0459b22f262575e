"""The wheel and the registry's zip work by themselves, with the toon model, where nothing else of the checkout is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from packages import copy, listed, registry_files, use
from prepared import SMALL as PREPARED
from runs import forks, painted_clips, write_config
from sdxl_anime_video.__main__ import VERBS
from sdxl_anime_video.benchmarks.making import paint_clips


def run(package: Path, output: Path, *verbs: list[object], imports: bool = False) -> str:
    """The output of a process that finds the package in this folder and nowhere else."""
    words = [[str(word) for word in verb] for verb in verbs]
    process = forks().Process(target=use, args=(package, output, words, imports))
    process.start()
    process.join(300)
    said = output.read_text()
    assert process.exitcode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """The package of an installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    copy(repository, listed(repository, "--cached", "--others", "--exclude-standard"), folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", built], check=True)
    return folder / "site" / "sdxl_anime_video"


@pytest.fixture(scope="module")
def registry(repository, tmp_path_factory):
    """The package of an unpacked zip."""
    return copy(repository, registry_files(repository), tmp_path_factory.mktemp("registry") / "sdxl_anime_video")


@pytest.mark.slow
def test_every_verb_runs_from_the_wheel(wheel, tmp_path):
    clips, adapter, clip = (
        painted_clips(tmp_path / "clips"),
        tmp_path / "run/adapter.safetensors",
        tmp_path / "clip.mp4",
    )
    toon = wheel / "demo/weights/temporal_adapters/toon/toon_adapter.safetensors"
    render = tmp_path / "render.json"
    size = {"frames": 4, "width": 64, "height": 64, "steps": 2}
    render.write_text(json.dumps({"output": str(clip), "prompt": "run", "adapter": str(toon), **size}))
    verbs = {
        "train": [write_config(tmp_path, clips=clips, output=tmp_path / "run", steps=2)],
        "inspect": [adapter],
        "convert": [adapter, tmp_path / "half.safetensors", "--dtype", "F16"],
        "render": [render],
        "evaluate": [clip],
        "prepare": [clips, "-o", tmp_path / "cache", *PREPARED],
    }
    assert verbs.keys() == VERBS.keys()
    out = run(wheel, tmp_path / "said", *([verb, *words] for verb, words in verbs.items()))
    assert f"| {clip} | 4 |" in out and (tmp_path / "half.safetensors").is_file() and (tmp_path / "cache").is_dir()


def test_the_wheel_brings_a_command(wheel):
    environment = {**os.environ, "PYTHONPATH": str(wheel.parent)}
    done = subprocess.run(
        [wheel.parent / "bin" / "sdxl-anime-video", "train", "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and "PRESET is one of quality, quick, standard, toon" in done.stdout


@pytest.mark.slow
def test_training_with_hints_and_every_import_work_in_the_registry(registry, tmp_path):
    """The modules that import ComfyUI are imported by tests/host/test_import.py."""
    assert not (registry / "benchmarks").exists() and not (registry / "tests").exists()
    clips = painted_clips(tmp_path / "clips")
    drawn = [str(tmp_path / "hints"), "--count", "3", "--frames", "5", "--size", "64", "--hint", "pose"]
    assert paint_clips.main(drawn) == 0
    hints = {"controlnet": "toon", "hints": tmp_path / "hints", "keyframes": "0,100%", "hinted_share": 1}
    config = write_config(tmp_path, clips=clips, output=tmp_path / "run", steps=2, **hints)
    run(registry, tmp_path / "said", ["train", config], imports=True)
    assert (tmp_path / "run/adapter.safetensors").is_file()


@pytest.mark.parametrize(("field", "ratio", "widest"), [("Icon", 1, 400), ("Banner", 21 / 9, 2100)])
def test_pictures_of_the_registry_have_its_shapes(repository, field, ratio, widest):
    address = re.search(
        rf'^{field} = "(https://\S+)"$', (repository / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    with Image.open(repository / address[1].split("/HEAD/")[1]) as picture:
        assert picture.width / picture.height == ratio and picture.width <= widest
