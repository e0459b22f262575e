"""The adapter's file: what is saved comes back, conversion, description, and nothing half-written."""

import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sdxl_anime_video.__main__ import main
from sdxl_anime_video.temporal.layers.adapter import TemporalAdapter
from sdxl_anime_video.temporal.weights.adapter_file import convert_adapter, load_adapter, save_adapter
from sdxl_anime_video.temporal.weights.formats import inspect_weights
from sdxl_anime_video.temporal.weights.header import WeightsFileError

SITES = {
    "down_blocks.1.attentions.0.transformer_blocks.0": (64, 1),
    "mid_block.attentions.0.transformer_blocks.1": (128, 2),
    "up_blocks.0.attentions.1.transformer_blocks.0": (128, 2),
}


def adapter(norm=True, metadata=None, **keywords):
    made = TemporalAdapter.create(SITES, max_frames=8, norm=norm, **keywords)
    made.metadata.update(metadata or {})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1)
    return made


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("pos_value", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path, norm, pos_value, dtype):
    saved = adapter(norm, pos_value=pos_value).to(dtype)
    save_adapter(saved, tmp_path / "a.safetensors", {"trained_frames": "6", "trained_steps": "100"})
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.config == saved.config
    assert loaded.trained_frames == 6
    assert loaded.metadata["trained_steps"] == "100"
    assert loaded.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/temporal-adapter"
    assert list(loaded.state_dict()) == list(saved.state_dict())
    for key, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert loaded.state_dict()[key].dtype == dtype
    x = torch.randn(4, 3, 128).to(dtype)
    path = "mid_block.attentions.0.transformer_blocks.1"
    assert torch.equal(loaded.site(path)(x, 4), saved.site(path)(x, 4))


def test_keys_of_the_file(tmp_path):
    save_adapter(adapter(), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
    parts = {"to_qkv.weight", "to_qkv.bias", "proj.weight", "proj.bias", "pos_emb", "gate"}
    optional = {"norm.weight", "norm.bias", "pos_value"}
    assert keys == {f"{path}.temporal_attn.{part}" for path in SITES for part in parts | optional}
    assert metadata["format"] == "sdxl-temporal-adapter"
    assert (metadata["format_version"], metadata["max_frames"], metadata["head_dim"]) == ("1", "8", "64")


def test_load_in_another_dtype(tmp_path):
    save_adapter(adapter().half(), tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", dtype=torch.float32)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_other_head_size(tmp_path):
    made = TemporalAdapter.create({"mid_block.attentions.0.transformer_blocks.0": (96, 3)})
    save_adapter(made, tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").config == made.config
    with pytest.raises(ValueError, match=r"one size.*\[32, 64\]"):
        TemporalAdapter.create({**SITES, "mid_block.attentions.0.transformer_blocks.0": (96, 3)})


@pytest.mark.parametrize("init", ["proj", "gate"])
def test_silent_adapter_warns(tmp_path, caplog, init):
    made = TemporalAdapter.create(SITES, init=init)
    save_adapter(made, tmp_path / "new.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = load_adapter(tmp_path / "new.safetensors")
    assert "new.safetensors" in caplog.text
    assert "cannot move anything" in caplog.text
    assert "cannot move anything" in loaded.describe()


def test_trained_adapter_does_not_warn(tmp_path, caplog):
    save_adapter(adapter(), tmp_path / "a.safetensors")
    with caplog.at_level(logging.WARNING):
        assert "cannot move" not in inspect_weights(tmp_path / "a.safetensors")
    assert not caplog.text


def test_describe(tmp_path):
    save_adapter(adapter(), tmp_path / "a.safetensors", {"trained_frames": "6", "trained_fps": "12"})
    text = inspect_weights(tmp_path / "a.safetensors")
    assert "sites: 3 (1 of 64 channels in 1 heads, 2 of 128 channels in 2 heads)" in text
    assert "up to 8, trained on 6" in text
    assert "trained_fps: 12" in text
    assert "norm before attention: yes" in text


def test_saving_keeps_the_old_file_when_it_cannot_be_done(tmp_path):
    path = tmp_path / "a.safetensors"
    save_adapter(adapter(), path)
    before = path.read_bytes()
    broken = adapter()
    with torch.no_grad():
        broken.site("mid_block.attentions.0.transformer_blocks.1").gate.fill_(float("nan"))
    with pytest.raises(WeightsFileError, match=r"not written.*mid_block\S+\.gate"):
        save_adapter(broken, path)
    with pytest.raises(Exception, match="int"):
        save_adapter(adapter(), path, {"trained_steps": 3})  # safetensors takes only texts
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


class Block(nn.Module):
    """Stands for a transformer block of a UNet: some base weights and the adapter's module."""

    def __init__(self, temporal):
        super().__init__()
        self.attn1 = nn.Linear(4, 4)
        self.temporal_attn = temporal


def unet_state_dict(made):
    """A state dict as `unet.state_dict()` gives it where the blocks of the UNet were replaced."""
    unet = nn.Module()
    for path in SITES:
        parent = unet
        *places, last = path.split(".")
        for name in places:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(last, Block(made.site(path)))
    return unet.state_dict()


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"step": 3, "optimizer": {"state": {0: {"exp": torch.ones(1)}}}, "model": state},
        lambda state: prefixed(state, "module.unet._orig_mod."),
        lambda state: {k.replace(".temporal", "._checkpoint_wrapped_module.temporal"): v for k, v in state.items()},
    ],
    ids=["plain", "nested", "prefixed", "wrapped"],
)
@pytest.mark.parametrize("whole_unet", [False, True])
@pytest.mark.parametrize("norm", [True, False])
def test_convert_torch_save(tmp_path, legacy, wrap, whole_unet, norm):
    made = adapter(norm)
    state = unet_state_dict(made) if whole_unet else made.state_dict()
    torch.save(wrap(state), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    convert_adapter(tmp_path / "a.pt", tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.config == made.config
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in made.state_dict().items())


def test_convert_safetensors_without_metadata(tmp_path):
    made = adapter()
    save_file(dict(made.state_dict()), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsFileError, match=r"not marked as format=sdxl-temporal-adapter.*convert"):
        load_adapter(tmp_path / "bare.safetensors")
    convert_adapter(tmp_path / "bare.safetensors", tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").config == made.config


GATE = "mid_block.attentions.0.transformer_blocks.0.temporal_attn.gate"
INSIDE_ITSELF: dict = {}
INSIDE_ITSELF["again"] = INSIDE_ITSELF


class Mischief:
    """Runs code when it is unpickled by a reader that trusts the file."""

    ran = False

    def __reduce__(self):
        return (setattr, (Mischief, "ran", True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": Mischief()}, "cannot be read as tensors alone"),
        ([1, 2, 3], "holds no tensors"),
        ({"a": torch.ones(2)}, "has no key of a temporal adapter"),
        ({"lora_unet_x.lora_up.weight": torch.ones(2, 2)}, "is a LoRA"),
        ({prefix + GATE: torch.ones(1) for prefix in ("", "ema.")}, "more than once"),
        (INSIDE_ITSELF, "holds no tensors"),
    ],
    ids=["code", "list", "unrelated", "lora", "twice", "inside itself"],
)
def test_convert_errors(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsFileError, match=rf"a\.pt.*{message}"):
        convert_adapter(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert not Mischief.ran
    assert not (tmp_path / "a.safetensors").exists()


def test_convert_of_a_damaged_torch_file(tmp_path):
    torch.save(adapter().state_dict(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsFileError, match=r"a\.pt.*cut off or damaged"):
        convert_adapter(tmp_path / "a.pt", tmp_path / "a.safetensors")


def test_tensors_that_share_memory_are_converted(tmp_path):
    state = dict(adapter().state_dict())
    one, two = (f"{path}.temporal_attn.to_qkv.weight" for path in list(SITES)[1:])
    state[two] = state[one]
    state[one.replace("to_qkv", "proj")] = state[one][:128]
    torch.save(state, tmp_path / "a.pt")
    convert_adapter(tmp_path / "a.pt", tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_what_the_source_says_of_its_training_is_kept(tmp_path):
    inner = {"trained_frames": 6, "trained_on": ["no", "text"], "state_dict": adapter().state_dict()}
    torch.save({"trained_fps": 12.5, "trained_dataset": "outer", "model": inner, "epoch": 3}, tmp_path / "a.pt")
    assert "trained on 6" in convert_adapter(tmp_path / "a.pt", tmp_path / "a.safetensors")
    said = load_adapter(tmp_path / "a.safetensors").metadata
    assert (said["trained_fps"], said["trained_dataset"]) == ("12.5", "outer")
    assert "trained_on" not in said and "epoch" not in said
    save_file(adapter().state_dict(), tmp_path / "bare.safetensors", {"trained_frames": "7"})
    assert "trained on 7" in convert_adapter(tmp_path / "bare.safetensors", tmp_path / "a.safetensors")


def test_convert_says_what_it_wrote(tmp_path, capsys):
    torch.save(adapter().state_dict(), tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "a.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "a.safetensors") and "sites: 3" in lines[2]


def test_convert_into_another_precision(tmp_path, capsys):
    save_adapter(adapter(), tmp_path / "a.safetensors")
    words = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "half.safetensors"), "--dtype"]
    assert main([*words, "F16"]) == 0
    whole, half = load_adapter(tmp_path / "a.safetensors"), load_adapter(tmp_path / "half.safetensors")
    for (name, value), other in zip(whole.state_dict().items(), half.state_dict().values(), strict=True):
        assert torch.equal(value.half(), other), name
    assert half.metadata == whole.metadata
    capsys.readouterr()
    words[2] = str(tmp_path / "other.safetensors")
    assert main([*words, "int8"]) == 1
    assert "--dtype int8 is none of F32, F16, BF16" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(words)


def test_a_target_that_cannot_be_written_is_one_line(tmp_path, capsys):
    torch.save(adapter().state_dict(), tmp_path / "a.pt")
    (tmp_path / "file").write_text("")
    for target in ("missing/out.safetensors", "file/out.safetensors"):
        assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / target)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: convert: {tmp_path / target} cannot be written") and error.count("\n") == 1
        assert "Choose a folder that exists, on a disk with room." in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "file"]


def test_a_full_disk_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.safetensors"
    save_adapter(adapter(), path)
    before, message = path.read_bytes(), r"a\.safetensors cannot be written.*on a disk with room"
    with full_disk(10_000), pytest.raises(WeightsFileError, match=message):
        save_adapter(adapter(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_toon_base_is_a_checkpoint(repository):
    base = repository / "demo" / "weights" / "toon_base.safetensors"
    with pytest.raises(WeightsFileError, match="is a full checkpoint of UNet, text encoders and VAE"):
        inspect_weights(base)
