"""Motion modules together with other changes of a MODEL or its conditioning, and through their nodes."""

import logging

import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file

import motion
from clip_sampling import (
    CONFIG,
    SIZE,
    adapted,
    chained,
    close,
    correlated,
    difference,
    ksample,
    model,
    windowed,
)
from sdxl_anime_video.nodes.motion_module import FOLDER, LORA_FOLDER, ApplyMotionModule, LoadMotionModule, MotionLora
from sdxl_anime_video.temporal.hosts.comfy.layers.in_unet import MotionLayer
from sdxl_anime_video.temporal.hosts.comfy.layers.motion_module import apply_motion_module
from sdxl_anime_video.temporal.hosts.comfy.layers.planned import as_patcher
from sdxl_anime_video.temporal.weights.motion.file import save_motion_module
from sdxl_anime_video.temporal.weights.motion.lora import load_motion_lora, patches

LENGTH = 7  # frames of a clip, more than the module has positions for
POSITIONS = 4


@pytest.fixture(scope="module")
def patcher():
    return as_patcher(motion.module("hotshot", CONFIG, max_frames=POSITIONS))


@pytest.fixture(scope="module")
def silent():
    return as_patcher(motion.module(config=CONFIG, seed=None, max_frames=POSITIONS))


def moved(model, patcher, strength=1.0):
    return apply_motion_module(model, patcher, strength, beta_schedule="sdxl")


def positions_of(model, seen: list):
    """The MODEL, noting at every call of the UNet the positions of each of its motion layers."""
    model = model.clone()

    def look(executor, *args, **kwargs):
        layers = [layer for layer in executor.class_obj.modules() if isinstance(layer, MotionLayer)]
        seen.append({tuple(layer.positions.tolist()) for layer in layers})
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    return model


def differs(a, b):
    return difference(a, b) > 1e-3


# Clips with more frames than the module has positions.


def test_a_chain_of_segments(patcher):
    seen = []
    chain = chained(positions_of(moved(model(), patcher), seen), frames=POSITIONS, overlap=1)
    noise = torch.randn(LENGTH, 4, SIZE, SIZE)
    clip = ksample(chain, frames=LENGTH, noise=noise, steps=2)
    assert seen == [{(0, 1, 2, 3)}] * 4  # two segments of two steps
    alone = ksample(moved(model(), patcher), frames=POSITIONS, noise=noise[:POSITIONS], steps=2)
    assert close(clip[:POSITIONS], alone)


def test_context_windows(patcher):
    seen = []
    windows = windowed(positions_of(moved(model(), patcher), seen), length=POSITIONS, overlap=1)
    clip = ksample(windows, frames=LENGTH, steps=1)
    assert seen == [{(0, 1, 2, 3)}] * 2
    assert differs(clip, ksample(windowed(model(), length=POSITIONS, overlap=1), frames=LENGTH, steps=1))


def test_a_chain_that_was_stopped_goes_on(patcher, caplog):
    caplog.set_level(logging.INFO)

    def run(strength):
        chain = chained(moved(model(), patcher, strength), frames=POSITIONS, overlap=1, resume_id="motion")
        return ksample(chain, frames=LENGTH, steps=1)

    first = run(1.0)
    assert "was finished before" not in caplog.text
    assert torch.equal(run(1.0), first)
    assert "segment 2 was finished before" in caplog.text
    assert differs(run(0.5), first)
    assert "starts afresh, because this changed: temporal adapter and other patches" in caplog.text


# Beside an adapter and noise.


def test_the_order_of_nodes_leaves_no_trace(patcher, silent):
    steps = [lambda m: moved(m, patcher), adapted, correlated]
    results = []
    for order in ([0, 1, 2], [2, 1, 0]):
        made = model()
        for i in order:
            made = steps[i](made)
        results.append(ksample(made, frames=POSITIONS, steps=1))
    assert torch.equal(*results)
    beside = ksample(correlated(adapted(model())), frames=POSITIONS, steps=1)
    assert differs(results[0], beside)
    assert torch.equal(ksample(moved(correlated(adapted(model())), silent), frames=POSITIONS, steps=1), beside)


# Through the nodes.


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders in which ComfyUI looks for motion modules and motion LoRAs, with one of each."""
    for kind in (FOLDER, LORA_FOLDER):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
    module = motion.module(config=CONFIG, max_frames=POSITIONS)
    save_motion_module(module, tmp_path / FOLDER / "m.safetensors")
    place = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_v"
    lora = {f"{place}.lora_A.weight": torch.randn(2, 64), f"{place}.lora_B.weight": torch.randn(64, 2)}
    save_file(lora, tmp_path / LORA_FOLDER / "pan.safetensors")
    return tmp_path


def applied(model, module, **keywords):
    return ApplyMotionModule.execute(model, module, 1.0, 0.0, 1.0, "sdxl", **keywords).result[0]


def with_lora(module, strength=1.0):
    return MotionLora.execute(module, "pan.safetensors", strength).result[0]


def test_motion_lora_is_added_to_the_weights_and_taken_off_again(folders):
    loaded = LoadMotionModule.execute("m.safetensors").result[0]
    plain = ksample(applied(model(), loaded), frames=POSITIONS, steps=1)
    changed = with_lora(with_lora(loaded, 0.5), 0.25)
    got = ksample(applied(model(), changed), frames=POSITIONS, steps=1)
    fused = motion.module(config=CONFIG, max_frames=POSITIONS)
    for key, (delta,) in patches(fused, load_motion_lora(folders / LORA_FOLDER / "pan.safetensors")).items():
        fused.state_dict()[key] += 0.75 * delta
    assert close(got, ksample(applied(model(), as_patcher(fused)), frames=POSITIONS, steps=1))
    assert differs(got, plain)
    assert torch.equal(ksample(applied(model(), loaded), frames=POSITIONS, steps=1), plain)
    assert torch.equal(ksample(applied(model(), with_lora(loaded, 0.0)), frames=POSITIONS, steps=1), plain)
    with pytest.raises(ValueError, match="the same motion module already, with other motion LoRAs"):
        applied(applied(model(), loaded), changed)


def test_errors_name_the_node_and_the_file(folders):
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, folders / FOLDER / "l.safetensors")
    with pytest.raises(ValueError, match=r"^Load Motion Module: l\.safetensors is a LoRA"):
        LoadMotionModule.execute("l.safetensors")
    with pytest.raises(FileNotFoundError, match=r"Load Motion Module: there is no 'no' in models/animatediff_models"):
        LoadMotionModule.execute("no")
    loaded = LoadMotionModule.execute("m.safetensors").result[0]
    key = "down_blocks.3.motion_modules.0.transformer_blocks.0.attn1.processor.to_q_lora"
    sd15 = {f"{key}.down.weight": torch.zeros(2, 1280), f"{key}.up.weight": torch.zeros(1280, 2)}
    save_file(sd15, folders / LORA_FOLDER / "pan.safetensors")
    with pytest.raises(ValueError, match=r"^Motion LoRA: pan\.safetensors is a motion LoRA for Stable Diff"):
        with_lora(loaded)
    with pytest.raises(ValueError, match="Motion LoRA: strength is nan; it must lie between -10 and 10"):
        with_lora(loaded, float("nan"))
    with pytest.raises(ValueError, match="Apply Motion Module: up_strength is 11; it must lie between -10 and 10"):
        applied(model(), loaded, up_strength=11.0)


def test_a_changed_file_is_loaded_again(folders):
    before = (
        LoadMotionModule.fingerprint_inputs("m.safetensors"),
        MotionLora.fingerprint_inputs(None, "pan.safetensors"),
    )
    save_motion_module(motion.module(mid=True), folders / FOLDER / "m.safetensors")
    (folders / LORA_FOLDER / "pan.safetensors").touch()
    after = LoadMotionModule.fingerprint_inputs("m.safetensors"), MotionLora.fingerprint_inputs(None, "pan.safetensors")
    assert all(a != b and str(folders) not in a for a, b in zip(after, before, strict=True))
