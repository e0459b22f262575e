"""A chain that was stopped goes on with its finished segments, and never with those of another run."""

import asyncio
import json
import logging
import shutil
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.t2i_adapter.adapter
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_model_advanced as advanced
import comfyui_version
import execution
import folder_paths
import nodes as core_nodes
import pytest
import torch

import server
from clip_sampling import (
    NEGATIVE,
    POSITIVE,
    SIZE,
    adapted,
    chained,
    controlled,
    correlated,
    empty,
    given,
    ksample,
    model,
    sigmas_of,
    smoothed,
    watched,
)
from sdxl_anime_video.nodes.segment_chain import SegmentChain
from sdxl_anime_video.temporal.hosts.comfy.resume import finished as resume
from sdxl_anime_video.temporal.hosts.comfy.resume.digests import Digests
from sdxl_anime_video.temporal.hosts.comfy.resume.own_code import own_code

LENGTH = 7  # frames of a clip
AFRESH = "starts afresh, because this changed: "


@pytest.fixture
def resume_id(request):
    yield "test-" + request.node.name.split("[")[0].replace("_", "-")[:50]
    shutil.rmtree(runs(), ignore_errors=True)


def runs() -> Path:
    return Path(folder_paths.get_user_directory()) / "sdxl-anime-video" / "resume"


def segments(resume_id: str) -> list[Path]:
    return sorted((runs() / resume_id).glob("*/*.safetensors"))


def resuming(plain, resume_id: str = ""):
    return chained(plain, 4, 1, resume_id=resume_id)


def stop_at(step):
    """A callback that interrupts sampling as ComfyUI's button does."""

    def callback(now, x0, x, total):
        if now == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    return callback


@pytest.mark.parametrize("carry", ["overlap", "last_frame"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_an_interrupted_chain_goes_on(resume_id, carry, sampler):
    seen = []
    plain = correlated(adapted(model()), correlation=0.5)
    expected = ksample(chained(plain, 4, 1, carry), sampler, frames=10)
    patched = chained(watched(plain, seen), 4, 1, carry, resume_id=resume_id)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(patched, sampler, frames=10, callback=stop_at(5))
    (folder,) = (runs() / resume_id).iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["0000.safetensors", "run.json"]
    seen.clear()
    assert torch.equal(ksample(patched, sampler, frames=10), expected)
    assert min(info.index[0] for info, _ in seen) > 0  # the first segment was not sampled again
    seen.clear()
    steps = []
    callback = lambda step, x0, x, total: steps.append(x0)  # noqa: E731
    assert torch.equal(ksample(patched, sampler, frames=10, callback=callback), expected)
    assert not seen
    assert torch.allclose(patched.model.process_latent_out(steps[-1]), expected, atol=1e-4)


def test_each_of_two_samplers_on_one_model_goes_on(resume_id):
    seen = []
    patched = resuming(watched(adapted(model()), seen), resume_id)

    def sample(**settings):
        seen.clear()
        return ksample(patched, steps=3, **settings), len(seen)

    first, _ = sample(frames=LENGTH)
    second, _ = sample(latent=first, denoise=0.5)
    for settings, expected in (({"frames": LENGTH}, first), ({"latent": first, "denoise": 0.5}, second)):
        again, sampled = sample(**settings)
        assert torch.equal(again, expected) and not sampled
    assert len(segments(resume_id)) == 4


# What has changed.

CHANGES = {
    "seed or noise": {"seed": 6},
    "sigmas": {"steps": 5},
    "sampler": {"sampler": "heun"},
    "guidance": {"cfg": 3.0},
    "latent image": {"latent": given(LENGTH)["samples"]},
    "mask": {"mask": torch.full((LENGTH, SIZE * 8, SIZE * 8), 0.5)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_run_starts_afresh(resume_id, name, caplog):
    patched = resuming(model(), resume_id)
    first = ksample(patched, steps=4, latent=empty(LENGTH))
    changed = {"steps": 4, "latent": empty(LENGTH), **CHANGES[name]}
    result = ksample(patched, **changed)
    assert f"{resume_id} {AFRESH}" in caplog.text and name in caplog.text
    assert torch.equal(result, ksample(resuming(model()), **changed))
    caplog.clear()
    assert torch.equal(ksample(patched, steps=4, latent=empty(LENGTH)), first)
    assert AFRESH not in caplog.text  # the first run's segments are still there


def lora(model):
    model = model.clone()
    key = next(key for key in model.model.state_dict() if key.endswith("attn1.to_q.weight"))
    model.add_patches({key: (torch.full_like(model.model.state_dict()[key], 0.1),)}, 1.0)
    return model


MODEL_CHANGES = {
    "adapter": ("temporal adapter and other patches", lambda m: adapted(m, 0.5)),
    "smoothing": ("frame settings", lambda m: smoothed(m, 0.2)),
    "lora": ("model", lora),
    "prediction": ("model", lambda m: advanced.ModelSamplingDiscrete().patch(m, "v_prediction", False)[0]),
}


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_a_changed_model_starts_afresh(resume_id, name, caplog):
    plain = adapted(model())
    ksample(resuming(plain, resume_id), frames=LENGTH, steps=2)
    ksample(resuming(plain, resume_id), frames=LENGTH, steps=2)  # a loaded model is the same model
    assert AFRESH not in caplog.text
    part, change = MODEL_CHANGES[name]
    result = ksample(resuming(change(plain), resume_id), frames=LENGTH, steps=2)
    assert AFRESH + part in caplog.text
    assert torch.equal(result, ksample(resuming(change(plain)), frames=LENGTH, steps=2))


def rescaled(model, multiplier):
    return advanced.RescaleCFG().patch(model, multiplier)[0]


def freed(model, b):
    node = freelunch.FreeU_V2
    if hasattr(node, "execute"):  # newer versions of ComfyUI
        return node.execute(model, b, b, 0.9, 0.2).result[0]
    return node().patch(model, b, b, 0.9, 0.2)[0]


@pytest.mark.parametrize(("patch", "before", "after"), [(rescaled, 0.0, 1.0), (freed, 1.0, 1.5)])
def test_a_changed_patch_behind_the_chain_starts_afresh(resume_id, patch, before, after, caplog):
    old = ksample(patch(resuming(model(), resume_id), before), frames=LENGTH, steps=2)
    assert torch.equal(ksample(patch(resuming(model(), resume_id), before), frames=LENGTH, steps=2), old)
    assert AFRESH not in caplog.text
    result = ksample(patch(resuming(model(), resume_id), after), frames=LENGTH, steps=2)
    assert AFRESH + "temporal adapter and other patches" in caplog.text
    assert torch.equal(result, ksample(patch(resuming(model()), after), frames=LENGTH, steps=2))
    assert not torch.allclose(result, old, atol=1e-2)


def hooked(strength):
    """Conditioning under a hook that changes weights of the model, as a LoRA hook does."""
    hook, group = comfy.hooks.WeightHook(strength, strength), comfy.hooks.HookGroup()
    weights = {k: v for k, v in model().model.state_dict().items() if k.endswith("to_q.weight")}
    generator = torch.Generator().manual_seed(1)
    hook.weights = {k: ("diff", (torch.randn(v.shape, generator=generator),)) for k, v in weights.items()}
    hook.need_weight_init = False
    group.add(hook)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0))
    frames.add(comfy.hooks.HookKeyframe(0.5, start_percent=0.6))
    group.set_keyframes_on_hooks(frames)
    return comfy.hooks.set_hooks_for_conditioning(POSITIVE, hooks=group)


def test_changed_hooks_of_weights_start_afresh(resume_id, caplog):
    noise, sampler = comfy.sample.prepare_noise(empty(LENGTH), 5), comfy.samplers.sampler_object("euler")

    def run(positive, resume_id=""):
        patched = resuming(model(), resume_id)
        rest = sampler, sigmas_of(patched, 3), positive, NEGATIVE, empty(LENGTH)
        return comfy.sample.sample_custom(patched, noise, 2.0, *rest, seed=5)

    weak, strong = hooked(0.1), hooked(1.0)
    old = run(weak, resume_id)
    assert torch.equal(run(weak, resume_id), old) and torch.equal(run(hooked(0.1), resume_id), old)
    assert AFRESH not in caplog.text
    result = run(strong, resume_id)
    assert AFRESH + "conditioning" in caplog.text
    assert torch.equal(result, run(strong)) and not torch.allclose(result, old, atol=1e-2)


def test_a_used_controlnet_is_the_same(resume_id, caplog):
    conds = controlled(model(), torch.rand(LENGTH, 8 * SIZE, 8 * SIZE, 3))
    noise, sampler = comfy.sample.prepare_noise(empty(LENGTH), 5), comfy.samplers.sampler_object("euler")

    def run(callback=None):
        patched = resuming(model(), resume_id)
        rest = sampler, sigmas_of(patched, 3), *conds, empty(LENGTH)
        return comfy.sample.sample_custom(patched, noise, 2.0, *rest, seed=5, callback=callback)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(stop_at(4))
    (segment,) = segments(resume_id)
    written = segment.stat().st_mtime_ns
    run()
    assert segment.stat().st_mtime_ns == written and len(segments(resume_id)) == 2
    assert AFRESH not in caplog.text


def test_another_version_of_torch_starts_afresh(resume_id, caplog, monkeypatch):
    ksample(resuming(model(), resume_id), frames=LENGTH, steps=2)
    (record,) = (runs() / resume_id).glob("*/run.json")
    versions = [torch.__version__, comfyui_version.__version__, model().load_device.type, own_code()]
    assert json.loads(record.read_text())["versions"] == Digests().digest(versions)
    monkeypatch.setattr(torch, "__version__", "1.0")
    ksample(resuming(model(), resume_id), frames=LENGTH, steps=2)
    assert AFRESH + "versions" in caplog.text


# Digests of single things.


def t2i(strength=1.0, seed=0):
    torch.manual_seed(seed)
    network = comfy.t2i_adapter.adapter.Adapter_light(cin=192, channels=[8, 8], nums_rb=1)
    control = comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device="cpu")
    return control.set_cond_hint(torch.zeros(1, 3, 16, 16), strength)


def with_extra(**extra):
    control = controlled(model(), torch.zeros(1, 16, 16, 3))[0][0][1]["control"]
    for name, value in extra.items():
        control.set_extra_arg(name, value)
    return control


def enclosing(value, also=None):
    return lambda x, by=also: (x, value, by)


class Seen:
    """What a CLIP vision model says of a picture is an object of this kind: a class and some attributes."""

    def __init__(self, value):
        self.image_embeds = torch.full((1, 3), float(value))


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def holding_itself(value):
    found = [value]
    found.append({"again": found})
    return found


def sampled_as(kind):
    return advanced.ModelSamplingDiscrete().patch(model(), kind, False)[0].get_model_object("model_sampling")


PAIRS = {
    "closure": (lambda: enclosing(1), lambda: enclosing(2)),
    "default": (lambda: enclosing(1, 2), lambda: enclosing(1, 3)),
    "code": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "partial": (lambda: partial(pow, 2), lambda: partial(pow, 3)),
    "method": (lambda: Seen(1).__init__, lambda: Seen(2).__init__),
    "object": (lambda: Seen(1), lambda: Seen(2)),
    "slots": (lambda: Slotted(1), lambda: Slotted(2)),
    "cycle": (lambda: holding_itself(1), lambda: holding_itself(2)),
    "set": (lambda: {"a", "b", 1}, lambda: {"a", "c", 1}),
    "hooks": (lambda: hooked(0.1), lambda: hooked(0.2)),
    "t2i strength": (t2i, lambda: t2i(0.5)),
    "t2i weights": (t2i, lambda: t2i(seed=1)),
    "controlnet": (lambda: with_extra(control_type=[1]), lambda: with_extra(control_type=[2])),
    "prediction": (lambda: sampled_as("eps"), lambda: sampled_as("v_prediction")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_things_are_told_apart_by_what_they_hold(name):
    one, another = PAIRS[name]
    digests = Digests()
    assert digests.digest(one()) == Digests().digest(one()) != Digests().digest(another())
    assert not digests.by_kind_only


def test_what_a_node_has_computed_is_no_setting():
    """Core's Self-Attention Guidance and others keep such things in variables of a function around."""

    def patch(setting):
        computed = None

        def show():
            return setting, computed

        def compute():
            nonlocal computed
            computed = torch.rand(3)

        return show, compute

    functions = patch(1)
    before = Digests().digest(functions)
    functions[1]()
    assert Digests().digest(functions) == before == Digests().digest(patch(1)) != Digests().digest(patch(2))


def test_a_nesting_without_end_counts_by_its_kind():
    deep = []
    for _ in range(5000):
        deep = [deep]
    digests = Digests()
    assert digests.digest(deep) == "" and digests.by_kind_only == ["builtins.list"]


def locked(model, value):
    """The model with a patch that holds what no digest can see into."""
    held = [threading.Lock(), value]
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * held[1])
    return model


def test_what_cannot_be_compared_is_refused(resume_id):
    with pytest.raises(ValueError, match=rf"Segment Chain: resume_id {resume_id}: .* _thread.lock in .*locked"):
        ksample(locked(resuming(model(), resume_id), 1.0), frames=LENGTH, steps=2)
    assert ksample(locked(resuming(model()), 1.0), frames=LENGTH, steps=2).shape[0] == LENGTH


# In a graph that ComfyUI runs.


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
        """What a fresh start of ComfyUI would know: nothing."""
        made = server.PromptServer(asyncio.new_event_loop())
        self._executor = execution.PromptExecutor(
            made, execution.CacheType.CLASSIC, {"lru": 0, "ram": 0, "ram_inactive": 0}
        )

    def run(self) -> torch.Tensor:
        self.sampled.clear()
        self._executor.execute(self.prompt, "test", {}, ["save"])
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
    """A node behind the chain is changed; the chain's own node does not run again, for nothing before it has."""
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
    graph._executor.execute(graph.prompt, "test", {}, ["save", "save too"])
    assert len(graph.latents) == 2 and AFRESH not in caplog.text


# Damage, and folders that cannot be written.


@pytest.mark.parametrize("damage", ["empty", "not a file of tensors", "cut", "flipped byte", "another segment"])
def test_a_damaged_segment_is_sampled_again(resume_id, damage, caplog):
    patched = resuming(adapted(model()), resume_id)
    expected = ksample(patched, frames=LENGTH, steps=2)
    path, other = segments(resume_id)
    data = path.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    contents = {"empty": b"", "cut": data[:-100], "flipped byte": flipped, "another segment": other.read_bytes()}
    path.write_bytes(contents.get(damage, damage.encode()))
    assert torch.equal(ksample(patched, frames=LENGTH, steps=2), expected)
    assert f"Segment Chain: {path} is damaged" in caplog.text
    assert path.read_bytes() == data


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_a_damaged_record_is_written_anew(resume_id, content, caplog):
    seen = []
    patched = resuming(watched(adapted(model()), seen), resume_id)
    expected = ksample(patched, frames=LENGTH, steps=2)
    (record,) = (runs() / resume_id).glob("*/run.json")
    before = record.read_bytes()
    record.write_bytes(content.encode(errors="surrogateescape"))
    ksample(patched, frames=LENGTH, steps=2, seed=6)
    seen.clear()
    assert torch.equal(ksample(patched, frames=LENGTH, steps=2), expected)
    assert not seen and record.read_bytes() == before


def test_on_a_full_disk_sampling_goes_on(resume_id, caplog, capsys, full_disk):
    """`capsys` keeps progress bars in memory: what pytest captures otherwise is a file, too."""
    patched = resuming(adapted(model()), resume_id)
    expected = ksample(resuming(adapted(model())), frames=LENGTH, steps=2)
    with ExitStack() as stack:

        def fill(step, x0, x, total):
            if not step:
                stack.enter_context(full_disk(1000))  # bytes, less than a segment has

        assert torch.equal(ksample(patched, frames=LENGTH, steps=2, callback=fill), expected)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all("Segment Chain: finished segments cannot be kept in " + str(runs()) in error for error in errors)
    assert "free space" in errors[0]
    assert not segments(resume_id)


def test_without_a_folder_sampling_goes_on(resume_id, caplog):
    """A file lies where the pack's folder should be: nothing under it can be made."""
    runs().parent.rmdir() if runs().parent.exists() and not any(runs().parent.iterdir()) else None
    expected = ksample(resuming(adapted(model())), frames=LENGTH, steps=2)
    runs().parent.write_text("in the way")
    try:
        result = ksample(resuming(adapted(model()), resume_id), frames=LENGTH, steps=2)
    finally:
        runs().parent.unlink()
    assert torch.equal(result, expected)
    assert "Segment Chain: finished segments cannot be kept in " + str(runs()) in caplog.text


IN_THE_WAY = [(where, what) for where in ("name", "run") for what in ("file", "link", "dangling link")]
IN_THE_WAY += [("all runs", "file"), ("all runs", "dangling link"), ("segment", "folder"), ("segment", "link")]


@pytest.mark.parametrize(("where", "what"), IN_THE_WAY)
def test_what_lies_in_the_way_is_named(resume_id, tmp_path, where, what):
    patched = resuming(model(), resume_id)
    ksample(patched, frames=LENGTH, steps=2)
    segment = segments(resume_id)[1]
    path = {"all runs": runs(), "name": segment.parents[1], "run": segment.parent, "segment": segment}[where]
    moved = path.rename(tmp_path / "moved")
    {
        "file": lambda: path.write_text(""),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(moved),
        "dangling link": lambda: path.symlink_to(tmp_path / "nothing"),
    }[what]()
    try:
        with pytest.raises(ValueError, match=rf"Segment Chain: .* {path} is a {what.split()[-1]}; move it away"):
            ksample(patched, frames=LENGTH, steps=2)
    finally:
        path.rmdir() if what == "folder" else path.unlink()


def test_old_runs_are_forgotten(resume_id):
    for i in range(resume.KEPT_NAMES + 2):
        ksample(chained(model(), 2, 0, resume_id=f"{resume_id}-{i}"), frames=3, steps=1)
    assert len(list(runs().iterdir())) == resume.KEPT_NAMES
    last = f"{resume_id}-{resume.KEPT_NAMES + 1}"
    assert len(segments(last)) == 2
    for seed in range(resume.KEPT_RUNS + 2):
        ksample(chained(model(), 2, 0, resume_id=last), frames=3, steps=1, seed=seed)
    assert len(segments(last)) == 2 * resume.KEPT_RUNS
