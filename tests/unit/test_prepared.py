"""Training on what `prepare` made."""

import json
import shutil

import pytest
import torch

from prepared import content, latents, run
from runs import losses
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.training.clips.folder import load_clips
from sdxl_anime_video.training.clips.source import DataError
from sdxl_anime_video.training.clips.store import Store
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.run.progress import Bars
from sdxl_anime_video.training.run.run import Run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert (
        paint_clips.main([str(folder / "clips"), "--count", "3", "--frames", "8", "--size", "72", "--scale", "1"]) == 0
    )
    assert run(folder / "clips", folder / "cache") == 0
    return folder / "cache"


def test_frames_are_drawn_from_the_posterior_and_text_and_sizes_are_those_of_the_clip(cache, toon):
    clips, stored = load_clips(cache, toon), content(cache)
    assert (len(clips), clips.lengths, clips.sizes, clips.fps) == (3, [8] * 3, [(8, 8)] * 3, 12)
    row = stored["clips"][clips.names[1]]
    mean, deviation = (torch.from_numpy(latents(row, part).copy()).float() for part in ("mean", "deviation"))
    assert torch.equal(clips.frames(1, 2, 4), mean[2:6] * 0.13025)
    draws = [clips.frames(1, 2, 4, torch.Generator().manual_seed(seed)) / 0.13025 for seed in range(200)]
    assert torch.equal(draws[0], clips.frames(1, 2, 4, torch.Generator().manual_seed(0)) / 0.13025)
    away = (torch.stack(draws) - mean[2:6]) / deviation[2:6]
    assert away.mean().abs() < 0.01 and away.std() == pytest.approx(1, abs=0.01)
    caption = stored["manifest"][1]["caption"]
    tokens, pooled = clips.text(torch.tensor([clips.caption[1], 0, clips.caption[1]]))
    expected = toon.encode_text([caption, "", caption])
    torch.testing.assert_close(tokens, expected[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pooled, expected[1], rtol=2e-3, atol=2e-3)
    assert clips.time_ids(1).tolist() == [72, 72, 0, 0, 64, 64]


def settings(cache, tmp_path, **fields) -> str:
    path = tmp_path / "config.json"
    plain = {"clips": str(cache), "output": str(tmp_path / "run"), "frames": [4], "threads": 1, "warmup_steps": 0}
    path.write_text(json.dumps({**plain, "steps": 2, "checkpoint_steps": 1, "keep_checkpoints": 9, **fields}))
    return str(path)


def test_a_run_on_a_cache_resumes_to_the_bit(cache, tmp_path):
    config = settings(cache, tmp_path, validation_clips=1)
    assert cli.main([config]) == 0
    whole, cut = tmp_path / "run", tmp_path / "cut"
    cut.mkdir()
    shutil.copy(whole / "checkpoint-00000001.safetensors", cut)
    assert cli.main([config, "--output", str(cut), "--resume", "latest"]) == 0
    assert losses(cut) == losses(whole)[1:]
    said = load_adapter(whole / "adapter.safetensors").metadata
    assert (said["trained_resolution"], said["trained_clips"], said["trained_fps"]) == ("64x64", "2", "12")


def test_a_cache_that_does_not_fit_is_refused_with_the_reason(cache, toon, tmp_path, capsys, caplog):
    assert cli.main([settings(cache, tmp_path), "--resolution", "48"]) == 1
    assert "was prepared at 64, not 48; set resolution to 64, or prepare the videos with" in capsys.readouterr().err
    assert cli.main([settings(cache, tmp_path), "--frames", "[12]"]) == 1
    assert "frames: 12 is more than any clip in" in capsys.readouterr().err
    other = load_base("toon")
    with torch.no_grad():
        other.vae.quant_conv.weight[:4].mul_(1.5)
    with pytest.raises(DataError, match="does not fit the base: the VAE is not that of toon"):
        load_clips(cache, other)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(cache, unfinished)
    (unfinished / "manifest.parquet").unlink()
    with pytest.raises(DataError, match="is not finished; run the same `prepare` again"):
        load_clips(unfinished, toon)


@pytest.mark.parametrize(("fields", "said"), [({"resolution": 48}, "not 48"), ({"clips": "nowhere"}, "nowhere")])
def test_clips_of_a_later_stage_are_looked_for_before_the_first_step(cache, tmp_path, capsys, fields, said):
    first = {"until": 0.5, "clips": str(cache), "resolution": 64}
    assert cli.main([settings(cache, tmp_path, stages=[first], **fields)]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_cache_that_changes_under_a_run_is_noticed_and_the_steps_are_kept(cache, toon, trainer, tmp_path):
    changing, folder = tmp_path / "cache", tmp_path / "run"
    shutil.copytree(cache, changing)
    clips = load_clips(changing, toon)
    training = trainer(loaded=clips, clips=changing, steps=5)

    def report(event):
        if event["step"] == 1:
            assert run(cache.parent / "clips", changing) == 0  # the same once more: nothing has changed
        if event["step"] == 2:
            Store(changing).remove([clips.names[2].split("#")[0]])

    with pytest.raises(DataError, match=r"cache has been changed since this run opened it; .*--resume latest"):
        Run(training, Bars(training.config, quiet=True), report).to_the_end()
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-00000002.safetensors"]
