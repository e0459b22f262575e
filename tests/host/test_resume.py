"""An interrupted chain continues with its finished segments, and never with those of another run."""

import json
import logging
from contextlib import ExitStack
from dataclasses import fields

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_model_advanced as advanced
import comfyui_version
import pytest
import torch

import tiny
from clip_sampling import (
    SIZE,
    adapted,
    anchored,
    chained,
    controlled,
    correlated,
    empty,
    given,
    ksample,
    model,
    pictures,
    smoothed,
    stop_at,
    watched,
    windowed,
)
from resuming import AFRESH, LENGTH, hooked, locked, resuming, runs, segments
from sdxl_anime_video.temporal.clip.contract import FrameContract
from sdxl_anime_video.temporal.hosts.comfy.resume import finished as resume
from sdxl_anime_video.temporal.hosts.comfy.resume.digests import Digests
from sdxl_anime_video.temporal.hosts.comfy.resume.own_code import own_code


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
    "noise": ("frame settings", lambda m: correlated(m)),
    "smoothings": ("frame settings", lambda m: smoothed(m, 0.2)),
    "pulls": ("frame settings", lambda m: anchored(m, strength=0.5)),
    "pins": ("frame settings", lambda m: anchored(m, latent=given(1), positions="-1")),
    "windows": ("frame settings", lambda m: windowed(m, 3, 1)),
    "lora": ("model", lora),
    "prediction": ("model", lambda m: advanced.ModelSamplingDiscrete().patch(m, "v_prediction", False)[0]),
}


def test_every_setting_of_the_contract_is_changed_above():
    assert {field.name for field in fields(FrameContract)} - {"chain"} <= set(MODEL_CHANGES)


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_a_changed_model_starts_afresh(resume_id, name, caplog):
    plain = adapted(model())
    ksample(resuming(plain, resume_id), frames=LENGTH, steps=2)
    ksample(resuming(plain, resume_id), frames=LENGTH, steps=2)  # a loaded model is the same model
    assert AFRESH not in caplog.text
    part, change = MODEL_CHANGES[name]
    result = ksample(resuming(change(plain), resume_id), frames=LENGTH, steps=2)
    assert part in caplog.text.partition(AFRESH)[2]
    assert torch.equal(result, ksample(resuming(change(plain)), frames=LENGTH, steps=2))


def rescaled(model, multiplier):
    return advanced.RescaleCFG().patch(model, multiplier)[0]


def freed(model, b):
    node = freelunch.FreeU_V2
    if hasattr(node, "execute"):  # newer versions of ComfyUI
        return node.execute(model, b, b, 0.9, 0.2).result[0]
    return node().patch(model, b, b, 0.9, 0.2)[0]


def two_levels():
    """FreeU changes nothing at the finest level."""
    return tiny.comfy_model(tiny.ALL_LEVELS)


@pytest.mark.parametrize(
    ("made", "patch", "before", "after"), [(model, rescaled, 0.0, 1.0), (two_levels, freed, 1.0, 1.5)]
)
def test_a_changed_patch_behind_the_chain_starts_afresh(resume_id, made, patch, before, after, caplog):
    plain = made()

    def run(setting, resume_id=""):
        return ksample(patch(resuming(plain, resume_id), setting), frames=LENGTH, steps=2)

    old = run(before, resume_id)
    assert torch.equal(run(before, resume_id), old)
    assert AFRESH not in caplog.text
    result = run(after, resume_id)
    assert AFRESH + "temporal adapter and other patches" in caplog.text
    assert torch.equal(result, run(after))
    assert not torch.allclose(result, old, atol=1e-2)


def test_changed_hooks_of_weights_start_afresh(resume_id, caplog):
    def run(positive, resume_id=""):
        return ksample(resuming(model(), resume_id), frames=LENGTH, steps=3, positive=positive)

    weak, strong = hooked(0.1), hooked(1.0)
    old = run(weak, resume_id)
    assert torch.equal(run(weak, resume_id), old) and torch.equal(run(hooked(0.1), resume_id), old)
    assert AFRESH not in caplog.text
    result = run(strong, resume_id)
    assert AFRESH + "conditioning" in caplog.text
    assert torch.equal(result, run(strong)) and not torch.allclose(result, old, atol=1e-2)


def test_a_used_controlnet_is_the_same(resume_id, caplog):
    positive, negative = controlled(pictures(LENGTH))

    def run(callback=None):
        settings = {"positive": positive, "negative": negative, "callback": callback}
        return ksample(resuming(model(), resume_id), frames=LENGTH, steps=3, **settings)

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


def test_what_cannot_be_compared_is_refused(resume_id):
    with pytest.raises(ValueError, match=rf"Segment Chain: resume_id {resume_id}: .* _thread.lock in .*locked"):
        ksample(locked(resuming(model(), resume_id), 1.0), frames=LENGTH, steps=2)
    assert ksample(locked(resuming(model()), 1.0), frames=LENGTH, steps=2).shape[0] == LENGTH


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
    """`capsys` keeps progress bars in memory, because pytest's default capture writes to a file, too."""
    patched = resuming(adapted(model()), resume_id)
    expected = ksample(resuming(adapted(model())), frames=LENGTH, steps=2)
    with ExitStack() as stack:

        def fill(step, x0, x, total):
            if not step:
                stack.enter_context(full_disk(1000))  # bytes, fewer than a segment has

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
