"""Save Clip on a real server: files, what follows it in a graph, and refusals."""

import pytest

from sdxl_anime_video.headless.client import PromptError


def graph(**inputs):
    """Four blue pictures saved as a clip, read again by core and shown."""
    picture = {"width": 40, "height": 32, "batch_size": 4, "color": 0x3060C0}
    clip = {"images": ["1", 0], "fps": 8.5, "filename_prefix": "saved/blue", "crf": 16, "save_frames": True, **inputs}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SAV_SaveClip", "inputs": clip},
        "3": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def test_core_reads_the_saved_clip(server, client, quiet_log):
    outputs = client.run(graph())
    (record,) = outputs["2"]["images"]
    assert record["subfolder"] == "saved" and record["filename"].startswith("blue_")
    assert client.view(record)[4:8] == b"ftyp"
    assert len(outputs["4"]["images"]) == 4
    folder = server.output / "saved"
    stem = record["filename"].removesuffix(".mp4")
    assert (folder / f"{stem}.json").is_file() and len(list((folder / f"{stem}frames").glob("*.png"))) == 4
    assert not list(server.output.rglob("*.part"))


@pytest.mark.parametrize(
    "inputs, words",
    [({"fps": 0}, "fps"), ({"crf": 60}, "crf"), ({"filename_prefix": "../out"}, "outside the output folder")],
)
def test_refused_with_a_reason(server, client, inputs, words):
    before = sorted(server.output.rglob("*"))
    with pytest.raises(PromptError, match=words):
        client.run(graph(**inputs))
    assert sorted(server.output.rglob("*")) == before
