"""From video files to a MODEL with other motion: `prepare`, `train`, then the nodes of a real ComfyUI."""

import os
import shutil
from pathlib import Path

import folder_paths
import nodes as core
import pytest
import torch

import prepared
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.nodes.temporal_adapter import FOLDER, ApplyTemporalAdapter, LoadTemporalAdapter
from sdxl_anime_video.training.run import verb as cli

MEDIA = os.environ.get("SAV_TEST_MEDIA")  # a folder of published clips
NAME = "from_the_trainer.safetensors"


def painted(folder: Path) -> Path:
    arguments = ["--count", "4", "--frames", "8", "--size", "64", "--scale", "1"]
    assert paint_clips.main([str(folder), *arguments]) == 0
    return folder


@pytest.fixture
def adapters(tmp_path, monkeypatch):
    """A folder in which ComfyUI looks for adapters."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(folder)], {".safetensors"}))
    return folder


@pytest.mark.parametrize("source", ["painted", "foreign"])
def test_prepared_and_trained_it_loads_and_moves_the_clip(source, tmp_path, adapters):
    if source == "foreign" and not (MEDIA and Path(MEDIA).is_dir()):
        pytest.skip("SAV_TEST_MEDIA names no folder")
    videos = painted(tmp_path / "videos") if source == "painted" else Path(str(MEDIA))
    assert prepared.run(videos, tmp_path / "cache") == 0
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(
        f"clips: {tmp_path / 'cache'}\noutput: {run}\nbase: toon\nframes: [4, 8]\nsteps: 3\nclips_per_step: 1\n"
        "optimizer: muon\nlearning_rate: 0.05\nwarmup_steps: 0\ntensorboard: false\n",
        encoding="utf-8",
    )
    assert cli.main([str(config)]) == 0
    shutil.copy(run / "adapter.safetensors", adapters / NAME)

    model, clip, _ = load_toon_comfy()
    loaded = LoadTemporalAdapter.execute(NAME).result[0]
    adapted = ApplyTemporalAdapter.execute(model, loaded, 1.0, 0.0, 1.0).result[0]
    positive, negative = (core.CLIPTextEncode().encode(clip, text)[0] for text in ("girl, blue hair, sunset, run", ""))
    empty = {"samples": torch.zeros(8, 4, 8, 8)}
    with torch.inference_mode():
        plain, moved = (
            core.common_ksampler(each, 3, 4, 3.0, "dpmpp_2m", "karras", positive, negative, empty)[0]["samples"]
            for each in (model, adapted)
        )
    assert torch.isfinite(moved).all()
    assert (moved - plain).norm() > 0.01 * plain.norm()
    assert (moved[1:] - moved[:-1]).flatten(1).norm(dim=1).min() > 0  # and no frame is the one before
