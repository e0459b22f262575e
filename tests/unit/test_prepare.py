"""`prepare` on real files: what a cache holds, what it drops, and what it goes on from."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prepared import content, latents, manifest, reasons, run
from runs import end, forks, wait_for
from sdxl_anime_video.benchmarks.making import paint_clips
from sdxl_anime_video.media.reader import read_clip
from sdxl_anime_video.media.writer import write_clip
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.training.clips import identity

MEDIA = os.environ.get("SAV_TEST_MEDIA")  # a folder of clips that others made


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Three captioned clips of 12 frames at 12 a second, 64 pixels."""
    folder = tmp_path_factory.mktemp("painted")
    assert paint_clips.main([str(folder), "--count", "3", "--frames", "12", "--size", "64", "--scale", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def cache(painted, tmp_path_factory):
    """What a run without disturbance makes of them; not to be changed."""
    cache = tmp_path_factory.mktemp("whole") / "cache"
    assert run(painted, cache) == 0
    return cache


@pytest.fixture
def videos(painted, tmp_path):
    return Path(shutil.copytree(painted, tmp_path / "videos"))


def drawn(count: int, size: int = 64) -> np.ndarray:
    """uint8 [count, size, size, 3]: a disc that moves on stripes, every frame another drawing."""
    rows, columns = np.mgrid[:size, :size]
    frames = np.repeat(np.stack([columns * 3, rows * 3, columns * 0 + 90], -1)[None].astype(np.uint8), count, 0)
    for i, frame in enumerate(frames):
        angle = i * 0.7
        away = np.hypot(rows - size / 2 - 18 * np.sin(angle), columns - size / 2 - 18 * np.cos(angle))
        frame[away < 12] = 250
    return frames


def test_a_cache_holds_posteriors_texts_and_sizes(painted, cache, toon):
    found = content(cache)
    assert [(row["id"], row["frames"], row["kept"]) for row in found["manifest"]] == [
        (f"{i:05d}.mp4#{part:05d}", frames, True) for i in range(3) for part, frames in enumerate((8, 4))
    ]
    row = found["clips"]["00001.mp4#00001"]
    frames, _ = read_clip(painted / "00001.mp4")
    with torch.no_grad():
        expected = toon.vae.encode(torch.from_numpy(frames[8:12]).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    np.testing.assert_allclose(latents(row), expected.mean.numpy(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(latents(row, "deviation"), expected.std.numpy(), rtol=2e-3, atol=1e-5)
    caption = (painted / "00001.txt").read_text().strip()
    assert found["manifest"][3]["caption"] == caption
    tokens, pooled = toon.encode_text([caption])
    text = found["texts"][caption]
    np.testing.assert_allclose(np.frombuffer(text["tokens"], np.float16), tokens.flatten(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.frombuffer(text["pooled"], np.float16), pooled.flatten(), rtol=2e-3, atol=2e-3)
    assert (row["original_height"], row["crop_top"], row["crop_left"], row["height"]) == (64, 0, 0, 64)
    assert (row["fps"], row["start"]) == (12, 0.666667)


def test_a_second_run_changes_nothing_and_a_new_caption_encodes_no_clip(videos, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert run(videos, cache) == 0
    before, files = content(cache), sorted((cache / "clips.lance").rglob("*"))
    assert run(videos, cache) == 0
    assert (content(cache), sorted((cache / "clips.lance").rglob("*"))) == (before, files)
    (videos / "00000.json").unlink()
    (videos / "00000.txt").write_text("blue hair, snow, wave")
    shutil.copy(videos / "00001.mp4", videos / "00002.mp4")
    (videos / "00001.mp4").unlink()
    capsys.readouterr()
    assert run(videos, cache) == 0
    assert "left out: 1 videos that were prepared earlier" in capsys.readouterr().out
    after = content(cache)
    first, third = after["manifest"][0], after["clips"]["00002.mp4#00000"]
    assert first["caption"] == "blue hair, snow, wave" and first["caption"] in after["texts"]
    assert after["clips"]["00000.mp4#00000"] == before["clips"]["00000.mp4#00000"]
    assert third["mean"] == before["clips"]["00001.mp4#00000"]["mean"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_cache(painted, cache, tmp_path):
    killed = tmp_path / "killed"
    moments = [
        lambda: list(killed.glob("clips.lance/data/*")),  # the first video is being written
        lambda: len(list(killed.glob("clips.lance/_versions/*.manifest"))) > 2,  # another one is done
        lambda: (killed / "captions.lance").exists(),  # the manifest is to come
    ]
    for sight in moments:
        process = forks().Process(target=run, args=(painted, killed))
        process.start()
        wait_for(sight, process)
        assert end(process, signal.SIGKILL) == -signal.SIGKILL and not (killed / "manifest.parquet").exists()
    assert run(painted, killed) == 0
    assert content(killed) == content(cache)
    assert len(list(killed.glob("clips.lance/data/*"))) == 1  # what the killed runs left is gone


def test_damaged_videos_are_named_and_the_rest_is_prepared(videos, tmp_path, capsys):
    whole = (videos / "00002.mp4").read_bytes()
    (videos / "00002.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "junk.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    (videos / "00001.json").write_text("{")
    (videos / "archive.zip").write_bytes(b"x")
    cache = tmp_path / "cache"
    assert run(videos, cache) == 0
    out = capsys.readouterr().out
    assert "2 clips, 12 frames, of 1 videos" in out and "passed over: 1 files .zip" in out
    for name in ("00001.mp4", "00002.mp4", "empty.mp4", "junk.mkv"):
        assert f"cannot be read: {name}: " in out and reasons(cache)[name].startswith("cannot be read: ")
    assert content(cache)["clips"].keys() == {"00000.mp4#00000", "00000.mp4#00001"}
    (videos / "00002.mp4").write_bytes(whole)  # it was still being copied
    assert run(videos, cache) == 0
    assert "4 clips, 24 frames, of 2 videos" in capsys.readouterr().out


def test_what_is_short_static_black_small_or_a_repeat_is_dropped_with_its_reason(tmp_path, capsys):
    videos, cache = tmp_path / "videos", tmp_path / "cache"
    videos.mkdir()
    frames = drawn(8)
    write_clip(videos / "a.mp4", frames, 12)
    write_clip(videos / "again.mp4", frames, 12, crf=22)  # coded otherwise
    write_clip(videos / "black.mp4", frames // 30, 12)
    write_clip(videos / "short.mp4", frames[:3], 12)
    write_clip(videos / "small.mp4", frames[:, :24, :24], 12)
    write_clip(videos / "static.mp4", frames[[0] * 8], 12)
    write_clip(videos / "twos.mp4", 255 - frames[[0, 0, 1, 1, 2, 2, 3, 3]], 12)
    assert run(videos, cache) == 0
    assert {name.split(".")[0]: reason.split(":")[0] for name, reason in reasons(cache).items()} == {
        "again": "repeat",
        "black": "black",
        "short": "short",
        "small": "small",
        "static": "static",
    }
    assert {row["source"]: row["unique"] for row in manifest(cache) if row["kept"]} == {
        "a.mp4": "11111111",
        "twos.mp4": "10101010",
    }
    out = capsys.readouterr().out
    assert "2 clips, 16 frames, of 2 videos" in out
    assert all(f"dropped: 1 {word}" in out for word in ("repeat", "black", "short", "small", "static"))
    assert "without a caption: 2 clips" in out


def test_a_cut_ends_a_clip(tmp_path):
    frames = np.concatenate([drawn(25), 255 - drawn(25), drawn(25)[:, ::-1] // 2])
    write_clip(tmp_path / "videos.mp4", frames, 12)
    assert run(tmp_path / "videos.mp4", tmp_path / "cache") == 0
    found = manifest(tmp_path / "cache")
    assert [(row["scene"], row["frames"]) for row in found] == [(s, n) for s in range(3) for n in (8, 8, 5, 4)]
    assert found[4]["start"] == pytest.approx(25 / 12, abs=1e-5)
    assert run(tmp_path / "videos.mp4", tmp_path / "none", "--cuts", "none") == 0
    assert {row["scene"] for row in manifest(tmp_path / "none")} == {0}


def test_pictures_and_gifs(tmp_path):
    videos = tmp_path / "videos"
    (videos / "walk").mkdir(parents=True)
    frames = drawn(12)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(videos / "walk" / f"frame{i + 3}.png")  # 3 .. 14: as text 10 comes before 3
    (videos / "walk.txt").write_text("a disc")
    pictures = [Image.fromarray(frame) for frame in 255 - frames]
    pictures[0].save(videos / "b.gif", save_all=True, append_images=pictures[1:], duration=80)
    Image.fromarray(frames[0]).save(videos / "cover.png")
    assert run(videos, tmp_path / "cache") == 0
    found = manifest(tmp_path / "cache")
    assert [(row["id"], row["frames"], row["caption"]) for row in found] == [
        ("b.gif#00000", 8, ""),
        ("b.gif#00001", 4, ""),
        ("walk/frame#00000", 8, "a disc"),
        ("walk/frame#00001", 4, "a disc"),
    ]
    assert {row["unique"] for row in found} == {"11111111", "1111"}


def test_npz_clips_come_out_and_in(painted, tmp_path, cache):
    out = tmp_path / "npz"
    assert run(painted, cache, "--npz", out) == 0
    file = out / "00001.mp4_00001.npz"
    with np.load(file) as clip:
        assert (clip["latents"].shape, clip["text_embeds"].shape) == ((4, 4, 8, 8), (77, 192))
        expected = clip["latents"] / 0.13025
        plain = {"latents": clip["latents"], "text_embed": clip["text_embeds"]}
    documents = tmp_path / "documents"
    documents.mkdir()
    np.savez(documents / "plain.npz", **plain)  # as the documents' recipe writes it
    shutil.copy(file, documents / "whole.npz")
    np.savez(documents / "wrong.npz", latents=np.zeros((6, 4, 8, 8)), text_embeds=np.zeros((77, 2048)))
    np.savez(documents / "nothing.npz", a=np.zeros(3))
    again = tmp_path / "again"
    assert run(documents, again) == 0
    found, whole = content(again), content(cache)
    assert sorted(reasons(again).items()) == [
        ("nothing.npz", "cannot be read: no `latents` [frames, 4, height, width]"),
        ("wrong.npz#00000", "text: embeddings of another model (157696 values, not 14784)"),
    ]
    for name in ("plain", "whole"):
        row = found["clips"][f"{name}.npz#00000"]
        np.testing.assert_allclose(latents(row), expected, rtol=1e-3, atol=1e-4)
        key = next(row["text"] for row in found["manifest"] if row["source"] == f"{name}.npz")
        text = whole["texts"][whole["manifest"][3]["caption"]]
        assert found["texts"][key]["tokens"] == text["tokens"]
        assert (found["texts"][key]["pooled"] == text["pooled"]) == (name == "whole")


def test_a_cache_of_other_settings_or_another_model_is_refused(painted, cache, toon, capsys):
    assert run(painted, cache, "--fps", "8", "--overlap", "2") == 1
    error = capsys.readouterr().err
    assert "was prepared otherwise: fps was 12.0, now is 8.0; overlap was 0, now is 2" in error
    made = identity.read_identity(cache)
    assert identity.changes(made, identity.probe(toon)) == ""
    other = load_base("toon")
    with torch.no_grad():
        other.vae.quant_conv.weight[:4].mul_(1.02)
    assert "the VAE is not that of toon (outputs differ by 2%)" in identity.changes(made, identity.probe(other))
    other = load_base("toon")
    known = other.encode_text
    other.encode_text = lambda captions: tuple(part * 1.1 for part in known(captions))
    assert "the text encoders are not those of toon (outputs differ by 10%)" in identity.changes(
        made, identity.probe(other)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "/nowhere"], "'/nowhere'"),
        (["--frames", "4", "--min-frames", "8"], "min_frames: 8 is more than frames 4"),
        (["--overlap", "6"], "overlap: 6 leaves fewer than min_frames"),
        (["--fpx", "4"], "did you mean 'fps'"),
        (["--manifest", "list.txt"], "list.txt is neither .csv nor .parquet"),
        (["--resolution", "8"], "resolution: Input should be greater"),
    ],
)
def test_errors_are_one_line(videos, tmp_path, capsys, options, message):
    assert run(videos, tmp_path / "cache", *options) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "cache" / "manifest.parquet").exists()


def test_folders_that_are_no_source_or_no_cache(tmp_path, painted, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "cache") == 1
    assert "no video, numbered pictures or .npz clip in" in capsys.readouterr().err
    assert run(tmp_path / "none", tmp_path / "cache") == 1
    assert "none does not exist" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    assert run(painted, tmp_path / "full") == 1
    assert "is no cache and holds thesis.txt" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir() if path.name[0] != "."] == ["thesis.txt"]


@pytest.mark.skipif(not MEDIA or not Path(MEDIA).is_dir(), reason="SAV_TEST_MEDIA names no folder")
def test_clips_from_elsewhere(tmp_path):
    assert run(MEDIA, tmp_path / "cache", "--frames", "16", "--min-frames", "8") == 0
    found = {row["id"]: row for row in manifest(tmp_path / "cache")}
    film = [row for name, row in found.items() if name.startswith("big_buck_bunny.mp4")]
    assert [row["frames"] for row in film] == [16, 16, 16, 16]  # 5.28 s at 12 frames a second
    assert {(row["original_height"], row["original_width"]) for row in film} == {(720, 1280)}
    assert all(row["kept"] and row["width"] > row["height"] for row in film)
    gifs = [row["frames"] for name, row in found.items() if ".gif" in name]
    assert sum(gifs) == 78 and len(gifs) == 6  # 2.09 s each


def test_the_manifest_says_everything_as_plain_columns(cache):
    (row, *_) = manifest(cache)
    assert set(row) >= {"id", "source", "start", "end", "fps", "frames", "drawings", "kept", "reason", "caption"}
    assert json.loads((cache / "cache.json").read_text())["checkpoint"] == "toon"


def test_a_full_disk_is_one_plain_line_and_the_same_command_goes_on(painted, cache, tmp_path, capsys, full_disk):
    with full_disk(6000):  # smaller than a clip's latents
        assert run(painted, tmp_path / "cache") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"error: prepare: {tmp_path / 'cache'}: File too large"
    assert run(painted, tmp_path / "cache") == 0
    assert content(tmp_path / "cache") == content(cache)
