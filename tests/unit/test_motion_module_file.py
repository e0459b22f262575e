"""Files of motion modules: every published layout, memory, and what is refused and how."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl_anime_video.__main__ import main
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.weights.header import WeightsFileError
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module, published_name, save_motion_module
from sdxl_anime_video.temporal.weights.motion.keys import read_contents

CHANNELS = {Site("down", 0, 0): 64, Site("mid", 0, 0): 128, Site("up", 1, 2): 96}
# of the real files: https://huggingface.co/guoyww/animatediff (mm_sdxl_v10_beta.ckpt), hotshotco/Hotshot-XL
SDXL_SITES = [(stage, i, j) for stage, layers in (("down", 2), ("up", 3)) for i in range(3) for j in range(layers)]
WIDTHS = {"down": (320, 640, 1280), "up": (1280, 640, 320)}


def module(format="animatediff", channels=CHANNELS, **more):
    made = MotionModule(MotionConfig(channels, format, max_frames=8, **more))
    made.reset_parameters()
    with torch.no_grad():
        for value in made.parameters():
            value.normal_(std=0.1)
    return made


@pytest.fixture
def state(tmp_path):
    """A module's tensors under AnimateDiff's names."""
    save_motion_module(module(), tmp_path / "state.safetensors")
    return load_file(tmp_path / "state.safetensors")


def same(a, b):
    return a.config == b.config and all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("format", ["animatediff", "hotshot"])
def test_round_trip(tmp_path, format):
    saved = module(format, betas=(0.00085, 0.02 if format == "animatediff" else 0.012))
    save_motion_module(saved, tmp_path / "m.safetensors", {"trained_steps": "7"})
    loaded = load_motion_module(tmp_path / "m.safetensors")
    assert same(saved, loaded) and loaded.format == format and loaded.metadata["trained_steps"] == "7"
    assert loaded.beta_schedule == ((0.00085, 0.02) if format == "animatediff" else (0.00085, 0.012))
    assert loaded.cross_frame_resnet_norms == (format == "hotshot")
    keys = set(load_file(tmp_path / "m.safetensors"))
    if format == "hotshot":
        assert (
            "up_blocks.1.temporal_attentions.2.transformer_blocks.0.attention_blocks.1.pos_encoder.positional_encoding"
            in keys
        )
    else:
        assert (
            "up_blocks.1.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"
            in keys
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


@pytest.mark.parametrize("layout", ["animatediff", "hotshot"])
def test_layouts_of_the_real_files(layout):
    """Every key and shape of mm_sdxl_v10_beta.ckpt and of Hotshot-XL's temporal layers, from the authors' classes."""
    channels = {Site(stage, i, j): WIDTHS[stage][i] for stage, i, j in SDXL_SITES}
    config = MotionConfig(channels, layout, {"animatediff": 32, "hotshot": 24}[layout])
    shapes = {
        published_name(layout, key): tuple(value.shape)
        for key, value in MotionModule(config, device="meta").state_dict().items()
    }
    assert len(shapes) == 420
    contents = read_contents({f"module.{key}": shape for key, shape in shapes.items()})
    assert contents.config == config and not contents.aside
    title = {"animatediff": "mm_sdxl_v10_beta", "hotshot": "Hotshot-XL"}[layout]
    assert title in contents.layout.title


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.ckpt", "a.pth"])
def test_training_checkpoints(tmp_path, state, zipped, name, caplog):
    """What AnimateDiff's training writes: a whole UNet under `module.`, inside a dictionary."""
    whole = {f"module.{key}": value for key, value in state.items()}
    whole["module.conv_in.weight"] = torch.zeros(2)
    whole["module.down_blocks.0.resnets.0.norm1.weight"] = torch.zeros(2)
    content = {"epoch": 3, "global_step": 100, "optimizer": {"state": {0: torch.zeros(3)}}, "state_dict": whole}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    loaded = load_motion_module(tmp_path / name)
    assert len(loaded.state_dict()) == len(state)
    assert "2 tensors of a UNet beside the motion module are not loaded" in caplog.text
    key = "mid_block.motion_modules.0.proj_in.weight"
    assert torch.equal(loaded.state_dict()[key], state[key.replace("0.proj", "0.temporal_transformer.proj")])


def test_motion_adapters_of_diffusers(tmp_path):
    from diffusers import MotionAdapter

    adapter = MotionAdapter(
        (64, 128), motion_num_attention_heads=4, motion_max_seq_length=12, use_motion_mid_block=False
    )
    adapter.save_pretrained(tmp_path / "folder")
    loaded = load_motion_module(tmp_path / "folder")
    assert loaded.config.heads == 4 and loaded.max_frames == 12 and loaded.format == "animatediff"
    assert len(loaded.sites) == 2 * 2 + 2 * 3
    file = tmp_path / "folder/diffusion_pytorch_model.safetensors"
    assert load_motion_module(file).config.heads == 4  # what ComfyUI's list offers
    (tmp_path / "folder/config.json").unlink()
    with pytest.raises(WeightsFileError, match=r"folder is a folder without a config\.json"):
        load_motion_module(tmp_path / "folder")
    assert load_motion_module(file).config.heads == 8
    for other in ("[" * 100_000, "[]", '{"_class_name": "UNet2DConditionModel", "motion_num_attention_heads": 4}'):
        (tmp_path / "folder/config.json").write_text(other)
        assert load_motion_module(file).config.heads == 8
        with pytest.raises(WeightsFileError, match=r"folder (has a|is a folder whose) config\.json"):
            load_motion_module(tmp_path / "folder")


def test_dtypes(tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    half = load_motion_module(tmp_path / "m.safetensors", dtype=torch.float16)
    assert {value.dtype for value in half.state_dict().values()} == {torch.float16}
    assert half.site(Site("down", 0, 0))(torch.randn(4, 64, 2, 2).half(), 4).dtype == torch.float16
    state[next(iter(state))][0] = 1e6
    save_file(state, tmp_path / "m.safetensors")
    assert load_motion_module(tmp_path / "m.safetensors")
    with pytest.raises(WeightsFileError, match=r"NaN or infinity in down_blocks.*as torch\.float16.*too large"):
        load_motion_module(tmp_path / "m.safetensors", dtype=torch.float16)


PEAK = """
import os, sys, threading, torch
from pathlib import Path
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module
def anonymous():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssAnon"))
for small in sys.argv[1::2]:
    load_motion_module(small, dtype=torch.float16)  # what the first load of a process imports and starts
for path in [path for path in sys.argv[2::2] for _ in range(3)]:
    if child := os.fork():  # a process of its own for each
        assert not os.waitpid(child, 0)[1]
        continue
    before, peak, done = anonymous(), [0], threading.Event()
    def watch():
        while not done.wait(0.0005):
            peak[0] = max(peak[0], anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    module = load_motion_module(path, dtype=torch.float16)
    done.set()
    thread.join()
    print((max(peak[0], anonymous()) - before) * 1024, sum(v.nbytes for v in module.state_dict().values()))
    break
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of a process is read from /proc")
def test_loading_in_half_holds_no_second_copy(tmp_path):
    """An fp32 file read as fp16: memory beyond the file's own mapped pages is that of the result."""
    names = ["small.safetensors", "big.safetensors", "small.ckpt", "big.ckpt"]
    save_motion_module(module(), tmp_path / names[0])
    save_motion_module(module(channels={Site("down", 0, j): 640 for j in range(5)}), tmp_path / names[1])  # 180 MB
    for saved, other in zip(names[:2], names[2:], strict=True):
        torch.save(load_file(tmp_path / saved), tmp_path / other)
    command = [sys.executable, "-c", PEAK, *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    # The system hands out pages ahead now and then; a second copy would be there every time.
    for tries in (said[:3], said[3:]):
        peak, held = min(tuple(map(int, one.split())) for one in tries)
        assert held > 80e6
        assert peak < 1.5 * held  # one copy, and the largest tensor with what checking it takes


def wrong(state, change):
    changed = dict(state)
    change(changed)
    return changed


KEY = "down_blocks.0.motion_modules.0.temporal_transformer."
PROBLEMS = {
    f"missing key {KEY.replace('temporal_transformer.', '')}proj_in.weight": lambda s: s.pop(f"{KEY}proj_in.weight"),
    f"unexpected key {KEY}extra.weight": lambda s: s.update({f"{KEY}extra.weight": torch.zeros(1)}),
    "unexpected key img_encoder.weight": lambda s: s.update({"img_encoder.weight": torch.zeros(1)}),
    rf"wrong shape \[3\] of {KEY}proj_in.bias \(\[64\] is right\)": lambda s: s.update(
        {f"{KEY}proj_in.bias": torch.zeros(3)}
    ),
    "mixes the names of several layouts": lambda s: s.update(
        {"down_blocks.0.temporal_attentions.0.norm.weight": torch.zeros(64)}
    ),
    r"channels that 8 heads and 32 groups of the norm do not divide: down_blocks.0.motion_modules.0 of 40": (
        lambda s: s.update({f"{KEY}norm.weight": torch.zeros(40)})
    ),
    f"NaN or infinity in {KEY}norm.bias": lambda s: s.update({f"{KEY}norm.bias": torch.full((64,), torch.nan)}),
    "weights are float32": lambda s: s.update({f"{KEY}norm.bias": torch.zeros(64, dtype=torch.int64)}),
}


@pytest.mark.parametrize("message", PROBLEMS)
def test_what_does_not_hold_together(tmp_path, state, message):
    save_file(wrong(state, PROBLEMS[message]), tmp_path / "m.safetensors")
    with pytest.raises(WeightsFileError, match=f"m.safetensors .*{message}") as caught:
        load_motion_module(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


def sd15(middle, length):
    """Keys and shapes as Stable Diffusion 1.5's modules have them."""
    channels = {
        Site(s, i, j): w
        for s, n in (("down", 2), ("up", 3))
        for i in range(4)
        for j in range(n)
        for w in [(320, 640, 1280, 1280)[i if s == "down" else 3 - i]]
    }
    if middle:
        channels[Site("mid", 0, 0)] = 1280
    made = MotionModule(MotionConfig(channels, max_frames=length), device="meta")
    return {published_name("animatediff", key): tuple(v.shape) for key, v in made.state_dict().items()}


@pytest.mark.parametrize(
    "middle, length, which", [(False, 24, "mm_sd_v14"), (True, 32, "mm_sd_v15_v2"), (False, 32, "v3_sd15_mm")]
)
def test_modules_of_stable_diffusion_15(middle, length, which):
    with pytest.raises(WeightsFileError, match=rf"Stable Diffusion 1\.5 .*{which}.*mm_sdxl_v10_beta"):
        read_contents(sd15(middle, length))


OTHERS = {
    "is a temporal adapter, not a motion module": "down_blocks.1.attentions.0.transformer_blocks.0.temporal_attn.gate",
    "is a motion LoRA, not a motion module": (
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
        "to_q_lora.down.weight"
    ),
    "is a LoRA, not a motion module": "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
    "is a full checkpoint, not a motion module": "model.diffusion_model.input_blocks.0.0.weight",
    "has no key of a motion module": "weight",
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_files(tmp_path, message):
    keys = {OTHERS[message]: torch.zeros(2, 2)}
    if "checkpoint" in message:
        keys["first_stage_model.encoder.conv_in.weight"] = torch.zeros(2)
    save_file(keys, tmp_path / "m.safetensors")
    with pytest.raises(WeightsFileError, match=f"m.safetensors {message}"):
        load_motion_module(tmp_path / "m.safetensors")


def test_files_that_are_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    for name, message in {
        "evil.ckpt": "cannot be read as tensors alone",
        "empty.ckpt": "holds no tensors",
        "page.safetensors": "is a web page",
        "none.ckpt": "does not exist",
    }.items():
        with pytest.raises(WeightsFileError, match=f"{name} {message}"):
            load_motion_module(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_schedules_in_metadata(tmp_path, state):
    for said in ({"beta_end": "0.02"}, {"beta_start": "0.1", "beta_end": "0.01"}, {"beta_start": "x", "beta_end": "1"}):
        save_file(state, tmp_path / "m.safetensors", said)
        with pytest.raises(WeightsFileError, match="a noise schedule has 0 < beta_start"):
            load_motion_module(tmp_path / "m.safetensors")
    save_file(state, tmp_path / "m.safetensors", {"beta_start": "0.00085", "beta_end": "0.012"})
    assert load_motion_module(tmp_path / "m.safetensors").beta_schedule == (0.00085, 0.012)


def test_nothing_half_written(tmp_path):
    made = module()
    (tmp_path / "m.safetensors").write_bytes(b"before")
    with torch.no_grad():
        made.site(next(iter(made.sites))).proj_in.bias[0] = torch.inf
    with pytest.raises(WeightsFileError, match="not written: it holds NaN or infinity"):
        save_motion_module(made, tmp_path / "m.safetensors")
    with pytest.raises(WeightsFileError, match="cannot be written"):
        save_motion_module(module(), tmp_path / "none" / "m.safetensors")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_inspect(tmp_path, state, capsys, caplog):
    save_file(state, tmp_path / "m.safetensors")
    assert main(["inspect", str(tmp_path / "m.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "AnimateDiff-SDXL (mm_sdxl_v10_beta's layout)" in said and "frames: up to 8" in said
    assert "1 of 64 channels, 1 of 96 channels, 1 of 128 channels" in said and "beta 0.00085 to 0.02" in said
    silent = {key: torch.zeros_like(value) if ".proj_out." in key else value for key, value in state.items()}
    save_file(silent, tmp_path / "m.safetensors")
    assert main(["inspect", str(tmp_path / "m.safetensors")]) == 0
    assert "cannot move anything" in capsys.readouterr().out and "cannot move anything" in caplog.text
    assert main(["inspect", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


SETTINGS = {
    "not of diffusers' MotionAdapter": {"_class_name": "UNet2DConditionModel"},
    r"none of diffusion_pytorch_model\.safetensors": {"_class_name": "MotionAdapter"},
    "must be the same at each": {"_class_name": "MotionAdapter", "motion_num_attention_heads": [4, 8]},
    "an input layer of its own": {"_class_name": "MotionAdapter", "conv_in_channels": 9},
}


@pytest.mark.parametrize("message", SETTINGS)
def test_folders_that_are_no_motion_adapter(tmp_path, message):
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS[message]))
    with pytest.raises(WeightsFileError, match=message):
        load_motion_module(tmp_path)


def test_values_in_eight_bits_are_refused(tmp_path, state):
    torch.save({key: value.to(torch.float8_e4m3fn) for key, value in state.items()}, tmp_path / "odd.ckpt")
    with pytest.raises(WeightsFileError, match=r"odd.ckpt .*has values of torch.float8_e4m3fn"):
        load_motion_module(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("heads", [0, "8", None, [[8]], True, 3.5])
def test_a_folder_with_odd_numbers_of_heads_is_refused(tmp_path, heads):
    save_motion_module(module(), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "MotionAdapter", "motion_num_attention_heads": heads}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if heads == "8":
        assert load_motion_module(tmp_path).config.heads == 8
        return
    with pytest.raises(WeightsFileError, match=r"has heads = .*, which must be a positive whole number"):
        load_motion_module(tmp_path)


def test_a_file_of_that_name_with_part_after_it_is_left_alone(tmp_path):
    mine = tmp_path / "m.safetensors.part"
    mine.write_text("mine")
    save_motion_module(module(), tmp_path / "m.safetensors")
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "m.safetensors.part"]


def test_empty_tables_of_positions_are_refused(tmp_path, state):
    empty = {key: value[:, :0].contiguous() if key.endswith(".pe") else value for key, value in state.items()}
    save_file(empty, tmp_path / "m.safetensors")
    with pytest.raises(WeightsFileError, match="position tables are empty"):
        load_motion_module(tmp_path / "m.safetensors")
