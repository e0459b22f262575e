"""A chain in a graph that ComfyUI runs: changes before the sampler restart it, those after it do not."""

import asyncio

import execution
import nodes as core_nodes
import pytest
import torch

import server
from clip_sampling import adapted, ksample, model, watched
from resuming import AFRESH, LENGTH, locked
from sdxl_anime_video.nodes.segment_chain import SegmentChain


class Graph:
    """Graphs run by ComfyUI's own executor, cache and all."""

    def __init__(self, resume_id: str):
        self.latents, self.sampled = [], []
        self.forget()
        self.prompt = {
            "model": {"class_type": "TestModel", "inputs": {}},
            "chain": {
                "class_type": "SAV_SegmentChain",
                "inputs": {
                    "model": ["model", 0],
                    "segment_frames": 4,
                    "overlap": 1,
                    "carry": "overlap",
                    "carry_denoise": 0.5,
                    "resume_id": resume_id,
                },
            },
            "patch": {"class_type": "TestPatch", "inputs": {"model": ["chain", 0], "value": 1.0}},
            "sample": {"class_type": "TestSample", "inputs": {"model": ["patch", 0], "seed": 5}},
            "save": {"class_type": "TestSave", "inputs": {"latent": ["sample", 0], "filename_prefix": "a"}},
        }

    def forget(self):
        """Clear all state, as a fresh start of ComfyUI would."""
        made = server.PromptServer(asyncio.new_event_loop())
        self._executor = execution.PromptExecutor(
            made, execution.CacheType.CLASSIC, {"lru": 0, "ram": 0, "ram_inactive": 0}
        )

    def run(self, *more: str) -> torch.Tensor:
        self.sampled.clear()
        self._executor.execute(self.prompt, "test", {}, ["save", *more])
        assert self._executor.success, self._executor.status_messages
        return self.latents[-1]


@pytest.fixture
def graph(resume_id, monkeypatch):
    made = Graph(resume_id)

    def node(function, output="MODEL", **inputs):
        kinds = {"INPUT_TYPES": classmethod(lambda cls: {"required": {name: (kind,) for name, kind in inputs.items()}})}
        body = {"RETURN_TYPES": (output,), "FUNCTION": "run", "CATEGORY": "test", "OUTPUT_NODE": output == "SAVED"}
        return type(function.__name__, (), {**kinds, **body, "run": lambda self, **given: (function(**given),)})

    def test_model():
        return watched(adapted(model()), made.sampled)

    def test_patch(model, value):
        return locked(model, value)

    def test_sample(model, seed):
        return ksample(model, frames=LENGTH, steps=2, seed=seed)

    def test_save(latent, filename_prefix):
        made.latents.append(latent)

    classes = {
        "TestModel": node(test_model),
        "TestPatch": node(test_patch, model="MODEL", value="FLOAT"),
        "TestSample": node(test_sample, "LATENT", model="MODEL", seed="INT"),
        "TestSave": node(test_save, "SAVED", latent="LATENT", filename_prefix="STRING"),
        "SAV_SegmentChain": SegmentChain,
    }
    for name, kind in classes.items():
        monkeypatch.setitem(core_nodes.NODE_CLASS_MAPPINGS, name, kind)
    yield made
    made.prompt = None


def test_a_graph_tells_what_no_digest_can_see(graph, caplog):
    """A node after the chain changes. The chain's own node does not run again: nothing before it has changed."""
    first = graph.run()
    assert graph.sampled
    graph.forget()
    assert torch.equal(graph.run(), first) and not graph.sampled
    assert AFRESH not in caplog.text
    graph.prompt["patch"]["inputs"]["value"] = 0.5
    changed = graph.run()
    assert graph.sampled and not torch.allclose(changed, first, atol=1e-2)
    assert "node patch (TestPatch)" in caplog.text


def test_nodes_behind_the_sampler_do_not_count(graph, caplog):
    first = graph.run()
    graph.forget()
    graph.prompt["save"]["inputs"]["filename_prefix"] = "b"
    assert torch.equal(graph.run(), first) and not graph.sampled
    assert AFRESH not in caplog.text


def test_two_samplers_in_a_graph_are_not_taken_for_changes(graph, caplog):
    graph.prompt["again"] = {"class_type": "TestSample", "inputs": {"model": ["patch", 0], "seed": 6}}
    graph.prompt["save too"] = {"class_type": "TestSave", "inputs": {"latent": ["again", 0], "filename_prefix": "a"}}
    graph.run("save too")
    assert len(graph.latents) == 2 and AFRESH not in caplog.text
