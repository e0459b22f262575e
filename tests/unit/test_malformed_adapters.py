"""Every kind of wrong file: an error that says what the file is and what to do, and no memory spent on it."""

import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile

import pytest
import torch
from safetensors.torch import save as to_safetensors

from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.weights.adapter_file import load_adapter
from sdxl_anime_video.temporal.weights.header import WeightsFileError

SITE = "mid_block.attentions.0.transformer_blocks.0"
OTHER = "down_blocks.2.attentions.0.transformer_blocks.1"
KEY = f"{SITE}.temporal_attn."
METADATA = {"format": "sdxl-temporal-adapter", "format_version": "1", "max_frames": "8", "head_dim": "64"}


def weights(**changes):
    """A sound adapter's tensors; a change of None removes one, a tensor replaces or adds one (names without site)."""
    made = TemporalAdapter.create({SITE: (64, 1), OTHER: (128, 2)}, max_frames=8, init="gate")
    tensors = {key: torch.randn_like(value) for key, value in made.state_dict().items()}
    for name, value in changes.items():
        tensors.pop(KEY + name.replace("__", "."), None)
        if value is not None:
            tensors[KEY + name.replace("__", ".")] = value
    return tensors


def adapter(metadata=None, **changes):
    """Bytes of an adapter file with changes."""
    said = {key: value for key, value in {**METADATA, **(metadata or {})}.items() if value is not None}
    return to_safetensors(weights(**changes), said)


def foreign(*keys, metadata=None):
    """Bytes of a safetensors file with these keys."""
    return to_safetensors({key: torch.zeros(2, 2) for key in keys}, metadata)


def raw(header, data=b"", length=None):
    """A safetensors file from a header as text or JSON value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def saved(content, **keywords):
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **keywords)
    return buffer.getvalue()


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


def repeated_key():
    text = '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], '
    return raw((text + '"data_offsets": [0, 4]}}').encode(), bytes(4))


SOUND = adapter()
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DOWN = "down_blocks.0.motion_modules.0."
NAN, INF = torch.full((1,), float("nan")), torch.full((64, 64), float("inf"))
TWO = {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}

# name -> (bytes of the file, what the message must contain)
FILES = {
    # not a safetensors file at all
    "empty": (b"", ["is empty", "Download"]),
    "few bytes": (b"\x10\0\0", ["not a safetensors file", "Download"]),
    "html": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", ["web page", "Download"]),
    "html after spaces": (b"\n\n  <html lang='en'><head></head></html>", ["web page", "Download"]),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ["Git LFS", "git lfs pull"]),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), ["PNG", "Choose"]),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(64), ["JPEG", "Choose"]),
    "mp4": (b"\0\0\0\x20ftypisom" + bytes(64), ["video", "Choose"]),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(64), ["GGUF", "safetensors"]),
    "numpy": (b"\x93NUMPY\x01\0" + bytes(64), ["NumPy", "Choose"]),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(64), ["gzip", "Unpack"]),
    "json": (b'{"model_type": "unet", "layers": 3}', ["JSON", "beside"]),
    "random": (bytes(range(7, 250)), ["not a safetensors file", "Download"]),
    "plain zip": (zipped("readme.txt"), ["zip archive", "Unpack"]),
    "torch.save": (saved(weights()), ["torch.save", "pickle", "sdxl-anime-video convert"]),
    "torch.save, legacy": (
        saved(weights(), _use_new_zipfile_serialization=False),
        ["pickle", "sdxl-anime-video convert"],
    ),
    "pickle": (pickle.dumps({"a": list(range(100))}), ["pickle", "sdxl-anime-video convert"]),
    "torch.save, cut off": (saved(weights())[:20000], ["cut off or damaged", "Download"]),
    # damaged safetensors
    "header bomb": (raw(b"{", length=1 << 62), ["declares", "4,611,686,018,427,387,904", "exhaust memory"]),
    "header of 2 GB": (raw(b"{", length=2 << 30), ["declares", "2,147,483,648", "exhaust memory"]),
    "cut off in the header": (SOUND[:200], ["is cut off", "header", "Download"]),
    "cut off in the weights": (SOUND[:-100], ["is cut off", "bytes of weights are there", "Download"]),
    "bytes too many": (SOUND + bytes(5), ["5 bytes too many", "Download"]),
    "broken json": (raw(b'{"a": {"dtype": '), ["damaged safetensors header", "Download"]),
    "not utf-8": (raw(b'{"\xff\xfe": 1}'), ["damaged safetensors header", "Download"]),
    "nested too deep": (raw(b'{"a":' * 100_000), ["damaged safetensors header", "Download"]),
    "key twice": (repeated_key(), ["'a' is written twice"]),
    "metadata not text": (raw({"__metadata__": {"a": 1}}), ["metadata other than texts"]),
    "entry without shape": (raw({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), ["'a' wrongly"]),
    "entry a list": (raw({"a": [1, 2]}), ["'a' wrongly"]),
    "negative shape": (raw({"a": {**ENTRY, "shape": [-2]}}, bytes(8)), ["'a' wrongly"]),
    "huge shape": (raw({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, bytes(8)), ["'a' wrongly"]),
    "shape of text": (raw({"a": {**ENTRY, "shape": ["x"]}}, bytes(8)), ["'a' wrongly"]),
    "name of a megabyte": (raw({"x" * 1_000_000: [1, 2]}), ["a tensor with a name of 1,000,000 letters", "Download"]),
    "dtype unknown": (raw({"a": {**ENTRY, "dtype": "Q4"}}, bytes(8)), ["'a' wrongly", "Q4"]),
    "dtype a list": (raw({"a": {**ENTRY, "dtype": ["F32"]}}, bytes(8)), ["'a' wrongly"]),
    "gap": (raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)), ["overlap or leave gaps"]),
    "overlap": (raw({"a": {**TWO, "data_offsets": [0, 4]}, "b": TWO}, bytes(6)), ["overlap or leave gaps"]),
    # safetensors of another kind
    "no tensors": (raw({}), ["no key of a temporal adapter", "none at all"]),
    "animatediff": (
        foreign(DOWN + "temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"),
        ["AnimateDiff motion module", "models/animatediff_models"],
    ),
    "motion adapter of diffusers": (
        foreign(DOWN + "transformer_blocks.0.attn1.to_q.weight"),
        ["MotionAdapter", "models/animatediff_models"],
    ),
    "hotshot-xl": (
        foreign("down_blocks.0.temporal_attentions.0.transformer_blocks.0.attention_blocks.0.to_q.weight"),
        ["Hotshot-XL", "models/animatediff_models"],
    ),
    "motion lora": (
        foreign(DOWN + "temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight"),
        ["motion LoRA", "models/animatediff_motion_lora"],
    ),
    "lora of kohya": (foreign("lora_unet_mid_block_1_proj_in.lora_down.weight"), ["a LoRA", "models/loras"]),
    "lora of peft": (foreign("unet.mid_block.attentions.0.proj_in.lora_A.weight"), ["a LoRA", "models/loras"]),
    "controlnet": (foreign("controlnet_cond_embedding.conv_in.weight"), ["a ControlNet", "models/controlnet"]),
    "controlnet of ldm": (foreign("control_model.zero_convs.0.0.weight"), ["a ControlNet", "models/controlnet"]),
    "checkpoint": (
        foreign("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"),
        ["a full checkpoint", "models/checkpoints"],
    ),
    "unet of ldm": (
        foreign("model.diffusion_model.input_blocks.0.0.weight"),
        ["on its own", "models/diffusion_models"],
    ),
    "unet of diffusers": (foreign("down_blocks.0.resnets.0.conv1.weight"), ["on its own", "models/diffusion_models"]),
    "vae": (foreign("encoder.conv_in.weight", "decoder.conv_in.weight"), ["a VAE", "models/vae"]),
    "text encoder": (foreign("text_model.encoder.layers.0.mlp.fc1.weight"), ["text encoder", "models/text_encoders"]),
    "embedding": (foreign("clip_l", "clip_g"), ["textual inversion", "models/embeddings"]),
    "ip-adapter": (foreign("image_proj.proj.weight"), ["an IP-Adapter", "models/ipadapter"]),
    "unrelated keys": (foreign("a", "b", metadata=METADATA), ["no key of a temporal adapter", "a, b"]),
    # an adapter, but not a sound one
    "no metadata": (to_safetensors(weights()), ["not marked as format=sdxl-temporal-adapter", "convert"]),
    "other format": (adapter({"format": "gaussians"}), ["format='gaussians'"]),
    "format of a megabyte": (adapter({"format": "x" * 1_000_000}), ["format='xxx"]),
    "newer version": (adapter({"format_version": "2"}), ["format_version='2'", "Update the pack"]),
    "no version": (adapter({"format_version": None}), ["format_version=None"]),
    "nan": (adapter(gate=NAN), ["NaN or infinity", KEY + "gate"]),
    "infinity": (adapter(proj__weight=INF), ["NaN or infinity", KEY + "proj.weight"]),
    "missing key": (adapter(to_qkv__bias=None), ["missing key " + KEY + "to_qkv.bias"]),
    "two missing keys": (adapter(gate=None, pos_emb=None), ["missing key " + KEY + "gate", KEY + "pos_emb"]),
    "half a norm": (adapter(norm__bias=None), ["missing key " + KEY + "norm.bias"]),
    "norm at one site": (adapter(norm__bias=None, norm__weight=None), ["missing key " + KEY + "norm.weight"]),
    "unexpected part": (adapter(to_q__weight=torch.ones(64, 64)), ["unexpected key " + KEY + "to_q.weight"]),
    "unexpected key": (to_safetensors({**weights(), "steps": torch.ones(1)}, METADATA), ["unexpected key steps"]),
    "wrong shape": (
        adapter(to_qkv__weight=torch.ones(64, 64)),
        ["wrong shape [64, 64] of " + KEY + "to_qkv.weight ([192, 64] is right)"],
    ),
    "transposed": (adapter(to_qkv__weight=torch.ones(64, 192)), ["wrong shape", KEY + "proj.weight"]),
    "gate a vector": (adapter(gate=torch.ones(64)), ["wrong shape [64] of " + KEY + "gate"]),
    "integers": (adapter(proj__bias=torch.ones(64, dtype=torch.int32)), ["wrong dtype I32 of " + KEY + "proj.bias"]),
    "float64": (adapter(gate=torch.ones(1, dtype=torch.float64)), ["wrong dtype F64 of " + KEY + "gate"]),
    "float8": (adapter(gate=torch.ones(1).to(torch.float8_e4m3fn)), ["wrong dtype F8_E4M3 of " + KEY + "gate"]),
    "positions differ": (adapter(pos_emb=torch.ones(9, 64)), ["wrong shape [9, 64] of " + KEY + "pos_emb"]),
    "values' positions differ": (adapter(pos_value=torch.ones(9, 64)), ["wrong shape [9, 64] of " + KEY + "pos_value"]),
    "values' positions at one site": (adapter(pos_value=None), ["missing key " + KEY + "pos_value"]),
    "max_frames disagrees": (adapter({"max_frames": "24"}), ["[8, 64]", "[24, 64] is right"]),
    "max_frames no number": (adapter({"max_frames": "many"}), ["max_frames='many'"]),
    "trained on more": (adapter({"trained_frames": "12"}), ["trained_frames=12", "max_frames=8"]),
    "odd head size": (adapter({"head_dim": "48"}), ["heads of 48", SITE]),
    "head size zero": (adapter({"head_dim": "0"}), ["head_dim='0'"]),
    "inside a unet": (
        to_safetensors({**weights(), "down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, METADATA),
        ["together with", "convert"],
    ),
    "no such block": (
        to_safetensors({**weights(), "encoder.0.temporal_attn.gate": torch.ones(1)}, METADATA),
        ["unexpected key encoder.0.temporal_attn.gate"],
    ),
}


def test_the_sound_file_loads(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(SOUND)
    assert load_adapter(tmp_path / "a.safetensors").config.max_frames == 8
    (tmp_path / "b.safetensors").write_bytes(adapter(gate=torch.tensor(0.5)))
    assert load_adapter(tmp_path / "b.safetensors").site(SITE).gate.tolist() == [0.5]


@pytest.mark.parametrize("name", FILES)
def test_malformed(tmp_path, name):
    content, phrases = FILES[name]
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError) as caught:
        load_adapter(path)
    message = str(caught.value)
    assert message.startswith("wrong.safetensors ")
    assert message.endswith(".")
    assert len(message) < 2000
    for phrase in phrases:
        assert phrase in message


def test_folder_and_missing_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsFileError, match=r"folder is a folder\. Choose"):
        load_adapter(tmp_path / "folder")
    with pytest.raises(WeightsFileError, match=r"gone\.safetensors does not exist\. Check"):
        load_adapter(tmp_path / "gone.safetensors")


def test_many_wrong_keys_are_counted(tmp_path):
    keys = {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}
    keys[KEY + "gate"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = tmp_path / "many.safetensors"
    path.write_bytes(raw({"__metadata__": METADATA, **keys}, bytes(4)))
    with pytest.raises(
        WeightsFileError, match=r"unexpected key x0; unexpected key x1; unexpected key x2 and 10,003 more\. Export"
    ) as caught:
        load_adapter(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["n59999", "x" * 1_000_000])
def test_a_name_written_twice_is_found_in_no_time(tmp_path, name):
    names = [*(f"n{i}" for i in range(60_000)), name, name]
    path = tmp_path / "twice.safetensors"
    path.write_bytes(raw(b"{" + b",".join(b'"%s":0' % each.encode() for each in names) + b"}"))
    start = time.process_time()
    with pytest.raises(WeightsFileError, match=r"is written twice\)\. Download") as caught:
        load_adapter(path)
    assert time.process_time() - start < 5 and len(str(caught.value)) < 2000


def sparse(path, start, size):
    """A file that claims `size` bytes and holds only its start on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


@pytest.mark.skipif(sys.platform == "win32", reason="no sparse files, no resource module")
def test_no_memory_is_spent(tmp_path, caplog):
    """Files that ask for gigabytes, in the header or in a tensor, are refused before anything is allocated."""
    huge = 3 << 30
    sparse(tmp_path / "header", struct.pack("<Q", huge) + b"{", huge + 64)
    key, other = KEY + "to_qkv.weight", KEY + "pos_emb"
    entries = {
        "__metadata__": {**METADATA, "max_frames": str(99999)},
        key: {"dtype": "F32", "shape": [192, 64], "data_offsets": [0, 192 * 64 * 4]},
        other: {
            "dtype": "F32",
            "shape": [99999, 64 * 64],
            "data_offsets": [192 * 64 * 4, 192 * 64 * 4 + 99999 * 16384],
        },
    }
    start = raw(entries)
    sparse(tmp_path / "tensor", start, len(start) + 192 * 64 * 4 + 99999 * 16384)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsFileError, match="exhaust memory"):
        load_adapter(tmp_path / "header")
    with pytest.raises(WeightsFileError, match=r"missing key .*proj\.weight"), caplog.at_level("DEBUG"):
        load_adapter(tmp_path / "tensor")
    assert "wrong shape [99999, 4096]" in caplog.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
