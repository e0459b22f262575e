"""Control Keyframes in the real ComfyUI, beside core's ControlNetApplyAdvanced."""

import importlib
import os
from functools import cache, partial
from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.t2i_adapter.adapter
import nodes as core
import pytest
import torch
from safetensors.torch import save_file

import tiny
from clip_sampling import (
    CONFIG,
    NEGATIVE,
    POSITIVE,
    SIZE,
    adapted,
    chained,
    close,
    empty,
    ksample,
    model,
    pictures,
    windowed,
)
from clip_sampling import FRAMES as LENGTH
from sdxl_anime_video.nodes.control_keyframes import ControlKeyframes
from sdxl_anime_video.temporal.clip.segments import SCHEDULES
from sdxl_anime_video.temporal.hosts.comfy.resume.fingerprint import Digests


@cache
def loaded(folder, seed=7):
    """The same from a file, by core's loader."""
    path = Path(folder, f"tiny{seed}.safetensors")
    save_file(tiny.control_net(CONFIG, seed).state_dict(), path)
    return comfy.controlnet.load_controlnet(str(path))


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    return loaded(str(tmp_path_factory.mktemp("control")))


def keyframed(control, hints=None, conds=(POSITIVE, NEGATIVE), **changes):
    settings = {"frames": LENGTH, "keyframes": "all", "strength": 1.0, "falloff": "none"}
    settings |= {"start_percent": 0.0, "end_percent": 1.0, **changes}
    return ControlKeyframes.execute(*conds, control, pictures(LENGTH) if hints is None else hints, **settings).result


def by_core(control, hints=None, conds=(POSITIVE, NEGATIVE), strength=1.0, start=0.0, end=1.0):
    hints = pictures(LENGTH) if hints is None else hints
    return core.ControlNetApplyAdvanced().apply_controlnet(*conds, control, hints, strength, start, end)


def sample(model, positive=POSITIVE, negative=NEGATIVE, **settings):
    return ksample(model, steps=2, positive=positive, negative=negative, **settings)


@pytest.mark.parametrize(
    ("core_settings", "settings"),
    [
        ({}, {}),
        ({}, {"falloff": "smooth"}),
        ({}, {"keyframes": "0,1,2,3,-1", "falloff": "linear", "falloff_frames": 2}),
        ({"strength": 0.37}, {"strength": 0.37}),
        ({"end": 0.5}, {"end_percent": 0.5}),  # the first step of two
        ({"start": 0.5}, {"start_percent": 0.5}),  # the second
    ],
)
def test_every_frame_equals_core(control, core_settings, settings):
    plain = adapted(model())
    expected = sample(plain, *by_core(control, **core_settings))
    assert torch.equal(sample(plain, *keyframed(control, **settings)), expected)
    assert not close(expected, sample(plain))


def test_without_guidance_equals_core(control):
    expected = sample(model(), *by_core(control), cfg=1.0)
    assert torch.equal(sample(model(), *keyframed(control), cfg=1.0), expected)
    assert not close(expected, sample(model(), *by_core(control)))


def test_a_single_picture_equals_core(control):
    expected = sample(model(), *by_core(control, pictures(1)))
    assert torch.equal(sample(model(), *keyframed(control, pictures(1))), expected)


def test_alpha_is_dropped(control):
    hints = torch.cat([pictures(LENGTH), torch.zeros(LENGTH, 8 * SIZE, 8 * SIZE, 1)], -1)
    assert torch.equal(sample(model(), *keyframed(control, hints)), sample(model(), *keyframed(control)))


def test_strength_zero_is_no_controlnet(control):
    positive, negative = keyframed(control, strength=0.0)
    assert positive is POSITIVE and negative is NEGATIVE


def test_several_prompts_and_areas_equal_core(control):
    """Three prompts, one of them for a part of the picture, so that core cannot evaluate them as one batch."""
    text, info = tiny.conditioning(CONFIG, seed=2)[0]
    part = [[text, {**info, "area": (SIZE, SIZE // 2, 0, 0), "set_area_to_bounds": False, "strength": 0.5}]]
    conds = POSITIVE + part, NEGATIVE
    expected = sample(model(), *by_core(control, conds=conds))
    assert torch.equal(sample(model(), *keyframed(control, conds=conds)), expected)


@pytest.fixture
def rows_seen(control):
    """Rows of the batch at every call of the ControlNet's own network."""
    seen = []
    hook = control.control_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["x"])), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_frames_between_keyframes_are_as_without(control, rows_seen):
    full = sample(model(), *by_core(control))
    rows_seen.clear()
    sparse = sample(model(), *keyframed(control, keyframes="0, 50%, -1"))
    assert rows_seen == [2 * 3, 2 * 3]  # two steps, each with both prompts of three frames
    assert torch.equal(sparse[[1, 3]], sample(model())[[1, 3]])
    assert close(sparse[[0, 2, 4]], full[[0, 2, 4]])
    assert not close(sparse, full)


def test_frames_between_keyframes_follow_by_temporal_attention(control):
    plain = adapted(model())
    assert not close(sample(plain, *keyframed(control, keyframes="0, -1"))[1:3], sample(plain)[1:3])


def test_falloff_is_core_at_that_strength(control):
    found = sample(model(), *keyframed(control, keyframes="1", falloff="linear", falloff_frames=3, strength=0.9))
    for frame, left in enumerate([0.6, 0.9, 0.6, 0.3, 0.0]):
        conds = by_core(control, strength=left) if left else (POSITIVE, NEGATIVE)
        assert close(found[frame], sample(model(), *conds)[frame])


def test_a_picture_for_each_keyframe(control):
    settings = {"keyframes": "-1, 1", "falloff": "linear", "falloff_frames": 3}
    few, whole = pictures(2), pictures(2)[[1, 1, 1, 0, 0]]
    expected = sample(model(), *keyframed(control, whole, **settings))
    assert torch.equal(sample(model(), *keyframed(control, few, **settings)), expected)


@pytest.mark.parametrize("keyframes", ["all", "0, 2, 5"])
def test_windows_equal_runs_of_their_own(control, keyframes):
    noise, hints, plain = comfy.sample.prepare_noise(empty(6), 5), pictures(6), adapted(model())
    found = sample(windowed(plain, 3, 0), *keyframed(control, hints, frames=6, keyframes=keyframes), noise=noise)
    for start, inside in ((0, "0, 2"), (3, "2")):
        piece = keyframed(control, hints[start:][:3], frames=3, keyframes="all" if keyframes == "all" else inside)
        assert torch.equal(found[start:][:3], sample(plain, *piece, noise=noise[start:][:3]))


@pytest.mark.parametrize(("keyframes", "falloff"), [("all", "none"), ("0, 50%, -1", "none"), ("0, 3", "smooth")])
def test_pieces_see_their_hints(control, keyframes, falloff):
    """Without an adapter, pieces have no effect. Two ControlNets in a row, the first by core's node."""
    first = by_core(control, strength=0.5)
    settings = {"keyframes": keyframes, "falloff": falloff, "falloff_frames": 2}
    conds = keyframed(control, pictures(LENGTH, seed=2), first, **settings)
    whole, plain = sample(model(), *conds), model()
    assert close(sample(windowed(plain, 3, 2, "uniform"), *conds), whole)
    assert close(sample(windowed(plain, 3, 1, "looped"), *conds), whole)
    assert close(sample(chained(plain, 3, 1), *conds), whole)
    assert close(sample(chained(windowed(plain, 2, 1), 3, 1), *conds), whole)


def test_core_windows_see_their_hints(control):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    known = ContextWindowsManualNode.GET_SCHEMA().get_v1_info(ContextWindowsManualNode).input["required"]
    settings = {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 0}
    settings |= {"freenoise": False} if "freenoise" in known else {}
    cut = ContextWindowsManualNode.execute(model(), 4, 2, "standard_static", **settings).result[0]
    try:
        sample(cut, frames=6)
    except RuntimeError as error:
        pytest.skip(f"this ComfyUI's own windows do not take a batch: {error}")
    conds = keyframed(control, pictures(6), frames=6, keyframes="0, 3, -1")
    assert close(sample(cut, *conds, frames=6), sample(model(), *conds, frames=6))


def test_several_in_a_row_equal_core(control, tmp_path):
    other, hints = loaded(str(tmp_path), seed=8), pictures(LENGTH, seed=2)
    expected = sample(model(), *by_core(other, hints, by_core(control, strength=0.6)))
    for first, second in ((keyframed, by_core), (by_core, keyframed), (keyframed, keyframed)):
        conds = second(other, hints, first(control, strength=0.6))
        assert torch.equal(sample(model(), *conds), expected)


def test_layer_weights(control):
    expected = sample(model(), *by_core(control))
    assert torch.equal(sample(model(), *keyframed(control, layer_weights="1, 1, 1")), expected)
    none = keyframed(control, layer_weights="0, 0, 0")
    assert torch.equal(sample(model(), *none), sample(model()))
    half = sample(model(), *by_core(control, strength=0.5))
    assert close(sample(model(), *keyframed(control, layer_weights="0.5, 0.5, 0.5")), half)
    with pytest.raises(ValueError, match=r"layer_weights has 2 number\(s\), but this ControlNet has 3 layers"):
        sample(model(), *keyframed(control, layer_weights="1, 1"))


def residuals(control, chunks=2, **settings):
    """A control object's residuals for a random batch: by core, by our node at every frame, and at keyframes."""
    options = {"cond_or_uncond": list(range(chunks))}
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(chunks * LENGTH, 4, SIZE, SIZE, generator=generator)
    t, cond = torch.full((len(x),), 3.0), {"c_crossattn": torch.randn(len(x), 77, 64, generator=generator)}
    found = []
    for conds in (by_core(control), keyframed(control, **settings), keyframed(control, keyframes="1, -1", **settings)):
        applied, plain = conds[0][0][1]["control"], model().model
        applied.pre_run(plain, plain.model_sampling.percent_to_sigma)
        found.append(applied.get_control(x, t, cond, chunks, options))
        applied.cleanup()
    return found


def require_weighed(expected, every, sparse):
    assert any(values for values in expected.values())
    for key, values in expected.items():
        for whole, ours, some in zip(values, every[key], sparse[key], strict=True):
            if whole is None:
                assert ours is None and some is None
                continue
            assert torch.equal(ours, whole)
            rows = torch.arange(2 * LENGTH)
            steered = torch.isin(rows % LENGTH, torch.tensor([1, LENGTH - 1]))
            assert torch.count_nonzero(some[~steered]) == 0
            assert torch.allclose(some[steered], whole[steered], atol=1e-5)


def test_union_controlnets():
    """Their size is fixed at 320 channels, which does not fit the tiny SDXL, so only their residuals are compared."""
    wide = {"model_channels": 320, "channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [0]}
    built = tiny.control_net(
        CONFIG, **wide, transformer_depth_middle=0, num_classes=None, union_controlnet_num_control_type=6
    )
    union = comfy.controlnet.ControlNet(built, load_device=torch.device("cpu"))
    union.set_extra_arg("control_type", [3])
    require_weighed(*residuals(union))


def test_t2i_adapters():
    adapter = comfy.t2i_adapter.adapter.Adapter(cin=192, channels=[8, 8, 8, 8], nums_rb=1, ksize=1, sk=True, xl=False)
    tiny.randomise(adapter)
    require_weighed(*residuals(comfy.controlnet.T2IAdapter(adapter, 3, 8, "nearest-exact", torch.device("cpu"))))


def test_control_loras():
    """The file of a control LoRA holds only its additions to the UNet; the rest is the MODEL's UNet."""
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    weights = {key: value for key, value in tiny.control_net(CONFIG).state_dict().items() if key.startswith(own)}
    lora = comfy.controlnet.ControlLora({"lora_controlnet": torch.tensor([]), **weights})
    expected = sample(model(), *by_core(lora))
    assert torch.equal(sample(model(), *keyframed(lora)), expected)
    sparse = sample(chained(model(), 3, 1), *keyframed(lora, keyframes="0, -1"))
    assert close(sparse[[0, -1]], expected[[0, -1]]) and close(sparse[1:-1], sample(model())[1:-1])


def test_inputs_stay_as_they_are(control):
    hints, before = pictures(LENGTH), by_core(control, strength=0.5)
    given, copied = hints.clone(), [dict(conditioning[0][1]) for conditioning in before]
    state = {key: value for key, value in vars(control).items() if key != "model_sampling_current"}
    conds = keyframed(control, hints, before, keyframes="0, 3")
    applied = conds[0][0][1]["control"]
    assert applied is conds[1][0][1]["control"] and applied.previous_controlnet is before[0][0][1]["control"]
    first = sample(chained(model(), 3, 1), *conds)
    assert torch.equal(sample(chained(model(), 3, 1), *conds), first)
    assert torch.equal(hints, given) and [conditioning[0][1] for conditioning in before] == copied
    assert state == {key: value for key, value in vars(control).items() if key != "model_sampling_current"}
    assert applied.inner.cond_hint is None and not applied.cuts  # nothing remains after a run


def test_hints_of_few_windows_are_kept(control):
    frames = 12
    conds = keyframed(control, pictures(frames), frames=frames)
    applied, plain = conds[0][0][1]["control"], model().model
    applied.pre_run(plain, plain.model_sampling.percent_to_sigma)
    text = {"c_crossattn": torch.zeros(8, 77, 64), "y": torch.zeros(8, 64 + tiny.TIME_IDS)}
    for start in range(frames - 7):
        # the keys of AnimateDiff-Evolved
        options = {"ad_params": {"sub_idxs": list(range(start, start + 8)), "full_length": frames}}
        applied.get_control(torch.zeros(8, 4, SIZE, SIZE), torch.ones(8), text, 1, options)
    assert len(applied.cuts) == 4  # of five: at most three times the clip's hints are kept
    applied.cleanup()
    assert not applied.cuts


def test_chains_tell_settings_apart(control):
    """Settings that a chain with resume_id compares."""

    def digest(**settings):
        return Digests().digest(keyframed(control, **settings)[0][0][1]["control"])

    same = digest(keyframes="0, 3")
    assert same == digest(keyframes="0, 3")
    others = [{"keyframes": "0, 4"}, {"hints": pictures(LENGTH, seed=5)}, {"layer_weights": "1, 1, 0"}]
    assert len({same, *(digest(**{"keyframes": "0, 3", **other}) for other in others)}) == 4


def test_clones_for_other_devices(control):
    conds = keyframed(control, keyframes="0, 3")
    applied = conds[0][0][1]["control"]
    if not hasattr(applied, "multigpu_clones"):
        pytest.skip("this ComfyUI computes on one device")
    clone = applied.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert applied.get_instance_for_device(torch.device("cpu")) is clone
    assert clone.inner.control_model is not applied.inner.control_model
    assert len(applied.get_models()) == 2
    again = [[[text, {**info, "control": clone}] for text, info in conditioning] for conditioning in conds]
    assert torch.equal(sample(model(), *again), sample(model(), *conds))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -1.0}, "strength is -1; it must lie between 0 and 10"),
        ({"frames": 0}, "frames is 0; it must be 1 or more"),
        ({"keyframes": ""}, "keyframes is empty"),
        ({"falloff": "cubic"}, "falloff is 'cubic'"),
        ({"falloff": "linear", "falloff_frames": 0}, "falloff_frames is 0"),
        ({"keyframes": "0, 1, 2, 3"}, r"5 hint picture\(s\) for 6 frames and 4 keyframe"),
        ({"layer_weights": "a"}, "layer_weights has 'a'"),
        ({"start_percent": 0.6, "end_percent": 0.5}, "start_percent 0.6 is after"),
        ({"hints": torch.zeros(0, 8, 8, 3)}, r"hints has shape \[0, 8, 8, 3\]"),
        ({"hints": torch.full((1, 8, 8, 3), torch.nan)}, "hints hold NaN"),
        ({"hints": torch.zeros(1, 8, 8, 1)}, r"hints has shape \[1, 8, 8, 1\]; give"),
    ],
)
def test_the_node_refuses(control, changes, message):
    with pytest.raises(ValueError, match=f"^Control Keyframes: {message}") as caught:
        keyframed(control, **{"frames": LENGTH + ("hint picture" in message), **changes})
    assert "\n" not in str(caught.value)


def test_what_has_no_residuals_is_refused():
    with pytest.raises(ValueError, match="Control Keyframes: a ControlBase cannot be weighed frame by frame"):
        keyframed(comfy.controlnet.ControlBase())


def test_another_number_of_frames_is_refused(control):
    message = r"Control Keyframes: its input frames has 5 frame\(s\) but the latent has 4; set both"
    for cut in (lambda plain: plain, adapted, lambda plain: windowed(plain, 3, 1), lambda plain: chained(plain, 3, 1)):
        with pytest.raises(ValueError, match=message):
            sample(cut(model()), *keyframed(control), frames=4)


@pytest.mark.skipif("SAV_ADVANCED_CONTROLNET" not in os.environ, reason="SAV_ADVANCED_CONTROLNET names no such pack")
def test_advanced_controlnet(control, monkeypatch):
    pack = Path(os.environ["SAV_ADVANCED_CONTROLNET"]).resolve()
    monkeypatch.syspath_prepend(str(pack.parent))
    advanced = importlib.import_module(f"{pack.name}.adv_control.control")
    utils = importlib.import_module(f"{pack.name}.adv_control.utils")
    theirs = advanced.convert_to_advanced(control.copy())
    strengths = utils.LatentKeyframeGroup()
    for frame in range(LENGTH):
        strengths.add(utils.LatentKeyframe(frame, (frame + 1) / LENGTH))
    by_frame = utils.TimestepKeyframe(latent_keyframes=strengths)
    theirs.set_timestep_keyframes(utils.TimestepKeyframeGroup.default(by_frame))
    expected = sample(model(), *by_core(theirs))
    assert not close(expected, sample(model(), *by_core(control)))
    assert close(sample(model(), *keyframed(theirs)), expected)
    cuts = [partial(windowed, length=3, overlap=2, schedule=schedule) for schedule in SCHEDULES]
    for cut in (*cuts, lambda plain: chained(plain, 3, 1), lambda plain: chained(windowed(plain, 2, 1), 3, 1)):
        assert close(sample(cut(model()), *by_core(theirs)), expected)
        assert close(sample(cut(model()), *keyframed(theirs)), expected)
        sparse = sample(cut(model()), *keyframed(theirs, keyframes="0, 4"))
        assert close(sparse[[0, 4]], expected[[0, 4]]) and close(sparse[1:4], sample(model())[1:4])
    few = sample(model(), *keyframed(theirs, pictures(LENGTH)[[4, 0]], keyframes="4, 0"))
    assert close(few[[0, 4]], expected[[0, 4]])
