"""The same cache, whether one process makes it or Ray does."""

import shutil

import pytest

from prepared import content, reasons, run
from sdxl_anime_video.benchmarks.making import paint_clips


@pytest.mark.slow
def test_ray_makes_the_same_cache(tmp_path):
    pytest.importorskip("ray")
    videos = tmp_path / "videos"
    assert paint_clips.main([str(videos), "--count", "3", "--frames", "12", "--size", "64", "--scale", "1"]) == 0
    (videos / "00001.mp4").write_bytes((videos / "00001.mp4").read_bytes()[:900])
    assert run(videos / "00000.mp4", tmp_path / "spread") == 0
    assert run(videos, tmp_path / "spread", "--ray", "local") == 0  # a spread run goes on from a plain one
    assert run(videos, tmp_path / "plain") == 0
    assert content(tmp_path / "spread") == content(tmp_path / "plain")
    assert [name for name, reason in reasons(tmp_path / "spread").items() if reason.startswith("cannot be read")] == [
        "00001.mp4"
    ]
    shutil.copy(videos / "00000.mp4", videos / "00001.mp4")
    for cache in ("spread", "plain"):  # and a plain one from a spread one
        assert run(videos, tmp_path / cache) == 0
    assert content(tmp_path / "spread") == content(tmp_path / "plain")


def test_no_cluster_is_said(tmp_path, capsys):
    pytest.importorskip("ray")
    assert paint_clips.main([str(tmp_path / "videos"), "--count", "1", "--frames", "8", "--size", "64"]) == 0
    assert run(tmp_path / "videos", tmp_path / "cache", "--ray", "127.0.0.1:1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: prepare: ray: no cluster at 127.0.0.1:1")
