"""Files of weights, opened: what is read of a torch.save file, and that large ones stay on the disk."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdxl_anime_video.temporal.weights.header import WeightsFileError
from sdxl_anime_video.temporal.weights.listing import listed, one_line, quoted
from sdxl_anime_video.temporal.weights.torch_file import open_weights

LARGE = 64 << 20  # bytes


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_both_formats_give_the_same(tmp_path, write):
    state = {"a": torch.randn(3, 4), "b.c": torch.arange(5)}
    write(state, tmp_path / "m.file")
    opened = open_weights(tmp_path / "m.file")
    assert opened.shapes == {"a": (3, 4), "b.c": (5,)} and opened.metadata == {}
    assert all(torch.equal(opened.read(key), value) for key, value in state.items())


def test_the_dictionary_that_is_wanted_is_read(tmp_path):
    optimizer = {str(i): torch.zeros(2) for i in range(9)}
    torch.save({"optimizer": optimizer, "trained_fps": 12.5, "nested": {"model": {"w": torch.ones(1)}}}, tmp_path / "m")
    assert list(open_weights(tmp_path / "m", "w".__eq__).shapes) == ["w"]
    assert set(open_weights(tmp_path / "m").shapes) == set(optimizer), "the largest"
    assert open_weights(tmp_path / "m").metadata == {"trained_fps": "12.5"}


def private_memory() -> int:
    """Bytes of this process that no file backs."""
    return int(re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("write", [torch.save, save_file])
def test_a_large_file_is_mapped(tmp_path, write):
    write({"a": torch.ones(LARGE // 4)}, tmp_path / "m.file")
    before = private_memory()
    value = open_weights(tmp_path / "m.file").read("a")
    assert value.sum() == LARGE // 4
    assert private_memory() - before < LARGE / 4


def test_the_older_format_is_read(tmp_path):
    torch.save({"a": torch.ones(7)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert open_weights(tmp_path / "m.pt").read("a").sum() == 7


class Code:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_code_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "model": Code()}, "m.pt")
    message = rf"^cannot be read as tensors alone: it holds {os.mkdir.__module__}\.mkdir, which is code\. Save"
    with pytest.raises(WeightsFileError, match=message) as caught:
        open_weights(Path("m.pt"))
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_named(tmp_path, zipped):
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(300)}, path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    start = content.find(b"data.pkl" if zipped else b"_rebuild_tensor") + 20
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match="cannot be read as tensors alone: it is damaged, or"):
        open_weights(path)


@pytest.mark.parametrize("spoil", [torch.Tensor.to_sparse, lambda value: value.to("meta")])
def test_a_tensor_without_plain_values_is_refused_when_it_is_read(tmp_path, spoil):
    torch.save({"a": spoil(torch.ones(2, 2)), "b": torch.ones(1)}, tmp_path / "m.pt")
    opened = open_weights(tmp_path / "m.pt")
    assert opened.read("b") == 1
    with pytest.raises(WeightsFileError, match="holds a without plain values"):
        opened.read("a")


def test_phrases_of_messages():
    assert listed([]) == "" and listed("ab") == "a, b" and listed("abc", "; ") == "a; b; c"
    assert listed(range(1203)) == "0, 1, 2 and 1,200 more"
    assert one_line("a\x1b[31m\n  b") == "a [31m b" and len(one_line("x" * 99)) == 80
    assert quoted("it's") == '"it\'s"' and len(quoted("x" * 999)) == 120
