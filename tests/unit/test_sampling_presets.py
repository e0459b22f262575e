"""What a graph in API form tells of the model, and what a preset says to it."""

import pytest

from sdxl_anime_video.schedulers.presets import PRESETS, Surroundings, warnings
from sdxl_anime_video.temporal.hosts.comfy.graph import leads_to, model_files

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
    "2": {
        "class_type": "LoraLoader",
        "inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": "a/lcm.safetensors"},
    },
    "3:7": {
        "class_type": "Power",
        "inputs": {
            "model": ["2", 0],
            "lora_1": {"on": True, "lora": "on.safetensors", "strength": 1},
            "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
            "text": "girl, <lora:by tag:0.8:1>, <LoRA: second :1>",
        },
    },
    "4": {"class_type": "Unrelated", "inputs": {"file": "other.safetensors", "size": [512, 3]}},
    "5": {"class_type": "SAV_SamplingPreset", "inputs": {"model": ["3:7", 0], "preset": "lcm"}},
    "6": {"class_type": "KSampler", "inputs": {"model": ["5", 0], "latent": ["4", 0], "cfg": 7}},
}


def test_what_leads_to_a_node():
    assert leads_to(GRAPH, "5", "model") == ["3:7", "2", "1"]
    assert leads_to(GRAPH, "6", "latent") == ["4"]
    assert leads_to(GRAPH, "1", "model") == leads_to(GRAPH, "no such", "model") == leads_to({}, "5", "model") == []
    circle = {"1": {"inputs": {"model": ["2", 0]}}, "2": {"inputs": {"model": ["1", 0]}}}
    assert leads_to(circle, "1", "model") == ["2", "1"]


def test_files_that_nodes_name():
    expected = ["on.safetensors", "by tag", "second", "a/lcm.safetensors", "sdxl.safetensors"]
    assert model_files(GRAPH, leads_to(GRAPH, "5", "model")) == expected


def test_presets_are_the_documents():
    assert {name: (preset.steps, preset.cfg) for name, preset in PRESETS.items()} == {
        "best_hq": (28, 6.25),
        "lcm": (6, 1.7),
        "sde": (28, 6.25),
    }


LCM = {"speed": ["lcm.safetensors"], "is_lcm": True, "patched": True, "graph": True}


@pytest.mark.parametrize(
    ("preset", "steps", "cfg", "around", "words"),
    [
        ("best_hq", 28, 6.25, {}, []),
        ("best_hq", 28, 7, {"patched": True, "graph": True}, []),
        ("best_hq", 28, 7, LCM, ["lcm.safetensors is made for 4 to 6 steps at CFG 1.5 to 2; at CFG 7 it burns"]),
        ("best_hq", 28, 7, {"lcm_sampling": True}, ["set to LCM sampling"]),
        ("sde", 28, 6.25, {"correlated": True}, []),
        ("sde", 28, 6.25, {}, ["other noise to every frame"]),
        ("sde", 28, 6.25, LCM, ["choose the preset lcm", "add Correlated Noise"]),
        ("lcm", 6, 1.7, LCM, []),
        ("lcm", 4, 2.0, LCM, []),
        ("lcm", 6, 1.7, {"patched": True}, []),
        ("lcm", 6, 1.7, {}, ["no LCM LoRA leads to the model"]),
        ("lcm", 6, 1.7, {"patched": True, "graph": True}, ["no LCM LoRA leads to the model"]),
        ("lcm", 6, 1.7, LCM | {"is_lcm": False, "speed": ["lightning"]}, ["lightning is for few steps but"]),
        ("lcm", 6, 7, LCM, ["CFG 7 burns colours"]),
        ("lcm", 28, 1.7, LCM, ["28 steps: LCM is made for 4 to 6"]),
        ("lcm", 3, 1.7, LCM, ["3 steps"]),
        ("lcm", 6, 1.7, LCM | {"samplers": [("node 6 (KSampler)", 7), ("x", 1.5)]}, ["node 6 (KSampler) has CFG 7"]),
    ],
)
def test_warnings(preset, steps, cfg, around, words):
    found = warnings(preset, steps, cfg, Surroundings(**around))
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))
