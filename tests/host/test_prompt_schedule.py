"""Prompt schedules of the toon CLIP: held rows are CLIPTextEncode's, and each frame is sampled with its own prompt."""

from functools import cache, partial

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy_extras.nodes_clip_sdxl as sdxl_nodes
import comfy_extras.nodes_hooks as hook_nodes
import nodes as core
import pytest
import torch

import tiny
from sdxl_anime_video.demo.comfy import VOCABULARY, load_toon_comfy
from sdxl_anime_video.demo.model import CONTEXT, POOLED, TOWERS, tower_config
from sdxl_anime_video.nodes.prompt_schedule import PromptSchedule
from sdxl_anime_video.nodes.segment_chain import SegmentChain
from sdxl_anime_video.temporal.clip.prompts import slerp
from sdxl_anime_video.temporal.hosts.comfy.published import FRAMES_KEY

TINY = tiny.TinyConfig(widths=(64,), depth=(1,), context=CONTEXT, pooled=POOLED)
FRAMES = 6
RUN, JUMP, WAVE = "girl, blue hair, run", "girl, (red:1.3) dress, jump", "cat, night, wave"
LONG = ", ".join([RUN] * 16)  # 154 tokens
PROMPTS = f"0: {RUN}\n2: {JUMP}\n-1: {WAVE}"
OF_FRAME = [RUN, RUN, JUMP, JUMP, JUMP, WAVE]


@cache
def toon_clip():
    return load_toon_comfy()[1]


@cache
def _built():
    return tiny.comfy_model(TINY)


def model():
    """A clone of a tiny SDXL in float32 that takes the toon CLIP's embeddings; the weights are built once."""
    return _built().clone()


def schedule(prompts=PROMPTS, frames=FRAMES, interpolation="hold", clip=None, **options) -> list:
    return PromptSchedule.execute(clip or toon_clip(), prompts, frames, interpolation, **options).result[0]


def encode(text: str, clip=None) -> list:
    return core.CLIPTextEncode().encode(clip or toon_clip(), text)[0]


def ksample(positive, negative, frames=FRAMES, patched=None, steps=3) -> torch.Tensor:
    latent = {"samples": torch.zeros(frames, 4, 8, 8)}
    patched = patched or model()
    return core.KSampler().sample(patched, 5, steps, 3.0, "euler", "karras", positive, negative, latent)[0]["samples"]


def assert_frames_are_their_prompts(scheduled: torch.Tensor, sampled_with, of_frame=OF_FRAME):
    """Frame i of `scheduled` is frame i of the plain run with prompt i, as `sampled_with(prompt)` makes it."""
    plain = {prompt: sampled_with(prompt) for prompt in dict.fromkeys(of_frame)}
    for frame, prompt in enumerate(of_frame):
        expected = plain[prompt][frame]
        assert (scheduled[frame] - expected).norm() / expected.norm() < 1e-5
        # Other prompts must give other frames; otherwise the comparison above would prove nothing.
        for other in plain.keys() - {prompt}:
            assert (plain[other][frame] - expected).norm() / expected.norm() > 1e-3


def test_conditioning_is_core_s_with_a_row_a_frame():
    ((text, info),) = schedule()
    assert text.shape == (FRAMES, 77, CONTEXT)
    assert info.keys() == encode(RUN)[0][1].keys() == {"pooled_output"}
    assert info["pooled_output"].shape == (FRAMES, POOLED)
    assert text.dtype == encode(RUN)[0][0].dtype and text.device == encode(RUN)[0][0].device


def test_held_rows_equal_plain_encoding_to_the_bit():
    ((text, info),) = schedule()
    for frame, prompt in enumerate(OF_FRAME):
        ((expected, plain),) = encode(prompt)
        assert torch.equal(text[frame : frame + 1], expected)
        assert torch.equal(info["pooled_output"][frame : frame + 1], plain["pooled_output"])


@pytest.mark.parametrize("interpolation", ["hold", "linear", "smooth", "slerp"])
@pytest.mark.parametrize("written", ["girl, (blue hair:1.2),\nrun", "\n  girl, (blue hair:1.2),\n\n  run", LONG])
def test_one_plain_prompt_is_vanilla(written, interpolation):
    ((text, info),) = schedule(written, interpolation=interpolation)
    ((expected, plain),) = encode(written)
    assert torch.equal(text, expected.repeat(FRAMES, 1, 1))
    assert torch.equal(info["pooled_output"], plain["pooled_output"].repeat(FRAMES, 1))


def test_one_plain_prompt_samples_as_vanilla_and_one_frame_too():
    for frames in (1, 3):
        scheduled = ksample(schedule(RUN, frames), encode(""), frames)
        assert torch.equal(scheduled, ksample(encode(RUN), encode(""), frames))


def test_common_words_stand_before_every_prompt():
    ((text, _),) = schedule("girl, blue hair,\n0: run\n3: jump,\nnight")
    assert torch.equal(text[:1], encode("girl, blue hair, run")[0][0])
    assert torch.equal(text[3:4], encode("girl, blue hair, jump, night")[0][0])


@pytest.mark.parametrize("interpolation", ["linear", "smooth", "slerp"])
def test_rows_between_keyframes(interpolation):
    ((text, info),) = schedule(f"0: {RUN}\n4: {JUMP}", 5, interpolation)
    ((first, first_info),), ((last, last_info),) = encode(RUN), encode(JUMP)
    assert torch.equal(text[[0, 4]], torch.cat([first, last]))
    weight = {"smooth": 0.25**2 * (3 - 2 * 0.25)}.get(interpolation, 0.25)
    widths = [TOWERS["clip_l"]["hidden_size"], TOWERS["clip_g"]["hidden_size"]]
    parts = zip(text[1].split(widths, -1), first[0].split(widths, -1), last[0].split(widths, -1), strict=True)
    pooled = (info["pooled_output"][1], first_info["pooled_output"][0], last_info["pooled_output"][0])
    between = slerp if interpolation == "slerp" else torch.lerp
    for row, a, b in (*parts, pooled):
        assert torch.allclose(row, between(a, b, weight), atol=1e-5)
        assert not torch.allclose(a, b, atol=1e-2)


def test_a_prompt_is_encoded_once(monkeypatch):
    clip, calls = toon_clip(), []
    encode_tokens = clip.cond_stage_model.encode_token_weights
    monkeypatch.setattr(
        clip.cond_stage_model, "encode_token_weights", lambda tokens: calls.append(1) or encode_tokens(tokens)
    )
    schedule(f"0: {RUN}\n2: {RUN}\n3: {JUMP}\n4: {RUN}")
    assert len(calls) == 2


VERY_LONG = ", ".join([WAVE] * 60)  # more than four times 77 tokens: core does not batch it with 77


@pytest.mark.parametrize("negative", ["", LONG, VERY_LONG])
def test_each_frame_is_sampled_with_its_prompt(negative):
    negative = encode(negative)
    assert_frames_are_their_prompts(ksample(schedule(), negative), lambda prompt: ksample(encode(prompt), negative))


def test_the_negative_may_be_scheduled_and_the_positive_plain():
    assert_frames_are_their_prompts(
        ksample(encode(WAVE + ", pan"), schedule()), lambda prompt: ksample(encode(WAVE + ", pan"), encode(prompt))
    )


def test_prompts_of_different_lengths_in_one_schedule():
    longer = ", ".join([JUMP] * 30)  # 231 tokens
    ((text, _),) = schedule(f"0: {RUN}\n2: {LONG}\n4: {longer}")
    assert text.shape == (FRAMES, 462, CONTEXT)
    scheduled = ksample(schedule(f"0: {RUN}\n2: {LONG}\n4: {longer}"), encode(""))
    of_frame = [RUN, RUN, LONG, LONG, longer, longer]
    assert_frames_are_their_prompts(scheduled, lambda prompt: ksample(encode(prompt), encode("")), of_frame)


def masked(conditioning):
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    return core.ConditioningSetMask().append(conditioning, mask, "default", 1.0)[0]


@cache
def _control_net():
    return comfy.controlnet.ControlNet(tiny.control_net(TINY), load_device=torch.device("cpu"))


def steered(conditioning):
    hint = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    apply = core.ControlNetApplyAdvanced().apply_controlnet
    return apply(conditioning, conditioning, _control_net().copy(), hint, 0.3, 0.0, 1.0)[0]


CORE_NODES = {
    "combine": lambda c: core.ConditioningCombine().combine(c, encode("snow"))[0],
    "area": lambda c: core.ConditioningSetArea().append(c, 32, 64, 0, 32, 1.0)[0],
    "mask": lambda c: core.ConditioningCombine().combine(masked(c), encode("snow"))[0],
    "range": lambda c: core.ConditioningSetTimestepRange().set_range(c, 0.0, 0.5)[0],
    "average": lambda c: core.ConditioningAverage().addWeighted(c, encode("snow"), 0.7)[0],
    "average from": lambda c: core.ConditioningAverage().addWeighted(c, c, 0.7)[0],
    "concat": lambda c: core.ConditioningConcat().concat(c, c)[0],
    "control": steered,
}


@pytest.mark.parametrize("name", CORE_NODES)
def test_core_nodes_take_it(name):
    apply = CORE_NODES[name]
    negative = encode("")
    # An area or a range alone leaves parts without any prompt, so there is a second one.
    second = encode("girl, meadow") if name in ("area", "range") else []
    assert_frames_are_their_prompts(
        ksample([*apply(schedule()), *second], negative),
        lambda prompt: ksample([*apply(encode(prompt)), *second], negative),
    )


def test_zeroing_out_keeps_a_row_a_frame():
    ((text, info),) = core.ConditioningZeroOut().zero_out(schedule())[0]
    assert text.shape == (FRAMES, 77, CONTEXT) and not text.any()
    assert info["pooled_output"].shape == (FRAMES, POOLED) and not info["pooled_output"].any()


def test_sizes_are_those_of_core_s_sdxl_encoder():
    def sized(prompt, width=1024, height=768):
        tokens = (prompt, prompt)
        return sdxl_nodes.CLIPTextEncodeSDXL.execute(toon_clip(), width, height, 0, 0, width, height, *tokens).result[0]

    ((_, info),) = schedule(width=1024, height=768)
    assert info.keys() == sized(RUN)[0][1].keys()
    assert {key: info[key] for key in info if key != "pooled_output"} == {
        "width": 1024, "height": 768, "crop_w": 0, "crop_h": 0, "target_width": 1024, "target_height": 768,
    }  # fmt: skip
    scheduled = ksample(schedule(width=1024, height=768), encode(""))
    assert_frames_are_their_prompts(scheduled, lambda prompt: ksample(sized(prompt), encode("")))
    without = ksample(schedule(), encode(""))
    assert not torch.allclose(without, scheduled, rtol=1e-3)
    # Without sizes, core takes the latent's.
    assert torch.allclose(without, ksample(schedule(width=64, height=64), encode("")), atol=1e-5)


def hooked_clip(scheduled: bool):
    """The toon CLIP with a LoRA that core's hooks switch from full to half strength at 40% of the noise schedule."""
    key = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    width, inner = TOWERS["clip_l"]["hidden_size"], TOWERS["clip_l"]["intermediate_size"]
    generator = torch.Generator().manual_seed(3)
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, width, generator=generator),
        f"{key}.lora_up.weight": torch.randn(inner, 4, generator=generator),
        f"{key}.alpha": torch.tensor(4.0),
    }
    _, patched, hooks = comfy.hooks.load_hook_lora_for_models(None, toon_clip(), lora, 1.0, 1.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    keyframes.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    keyframes.add(comfy.hooks.HookKeyframe(0.5, 0.4))
    hooks.set_keyframes_on_hooks(keyframes)
    return hook_nodes.SetClipHooks().apply_hooks(patched, scheduled, True, hooks)[0]


@pytest.mark.parametrize("scheduled, entries", [(False, 1), (True, 2)])
def test_scheduled_lora_hooks_of_the_clip_are_kept(scheduled, entries):
    clip = hooked_clip(scheduled)
    conditioning = schedule(clip=clip)
    plain = {prompt: encode(prompt, clip) for prompt in set(OF_FRAME)}
    assert len(conditioning) == len(plain[RUN]) == entries
    for part, (text, info) in enumerate(conditioning):
        assert text.shape == (FRAMES, 77, CONTEXT)
        for frame, prompt in enumerate(OF_FRAME):
            expected, own = plain[prompt][part]
            assert torch.equal(text[frame], expected[0])
            assert torch.equal(info["pooled_output"][frame], own["pooled_output"][0])
            assert {key: info[key] for key in info if key != "pooled_output"} == {
                key: own[key] for key in own if key != "pooled_output"
            }
        assert not torch.equal(text[:1], encode(RUN)[0][0])
    if entries == 2:
        assert not torch.equal(conditioning[0][0], conditioning[1][0])
        assert [info["clip_start_percent"] for _, info in conditioning] == [0.0, 0.4]


@pytest.mark.parametrize("carry, overlap, starts", [("overlap", 1, [0, 4, 7]), ("last_frame", 0, [0, 4, 8])])
def test_segments_of_a_chain_have_one_prompt_each(carry, overlap, starts):
    def changes_inside(**segments):
        """For each segment of the chain, by its first new frame: whether its new frames' prompts differ."""
        found = {}

        def look(apply_model, args):
            chunks, info = args["cond_or_uncond"], args["c"]["transformer_options"][FRAMES_KEY]
            text = args["c"]["c_crossattn"].chunk(len(chunks))[chunks.index(0)]
            new = ~info.known
            found[int(info.index[new][0])] = bool((text[new] != text[new][0]).any())
            return apply_model(args["input"], args["timestep"], **args["c"])

        patched = SegmentChain.execute(model(), 4, overlap, carry, 0.5).result[0]
        patched.set_model_unet_function_wrapper(look)
        conditioning = schedule(f"0: {RUN}\n9: {JUMP}", 10, "linear", **segments)
        ksample(conditioning, encode(""), 10, patched)
        return found

    assert changes_inside(segment_frames=4, overlap=overlap) == dict.fromkeys(starts, False)
    assert changes_inside() == dict.fromkeys(starts, True)


def test_size_needs_both_numbers():
    with pytest.raises(ValueError, match="Prompt Schedule: the size is 1024x0; set width and height, or leave both"):
        schedule(width=1024)


def test_no_clip_says_so():
    with pytest.raises(ValueError, match="Prompt Schedule: clip is empty: the checkpoint holds no text encoders"):
        PromptSchedule.execute(None, RUN, FRAMES, "hold")


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ("0: a\n25: b", {}, r"line 2 \('25: b'\): position 25 is outside the clip of 6 frame\(s\)"),
        ("# a", {}, "prompts holds no prompt"),
        (RUN, {"segment_frames": 4, "overlap": 4}, "segments of 4 frames cannot overlap by 4"),
    ],
)
def test_errors_name_the_node(prompts, options, message):
    with pytest.raises(ValueError, match=f"^Prompt Schedule: {message}"):
        schedule(prompts, **options)


def clip_with_masks():
    """One of core's text encoders, very small, that gives an attention mask with each prompt."""

    def encoder(**options):
        towers = partial(comfy.sd1_clip.SDClipModel, return_attention_masks=True)
        return comfy.sd1_clip.SD1ClipModel(**options, clip_model=towers)

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, encoder)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": tower_config("clip_l", VOCABULARY)})
    tiny.randomise(clip.cond_stage_model)
    return clip


def test_encoders_with_masks_are_refused():
    clip = clip_with_masks()
    assert "attention_mask" in encode(RUN, clip)[0][1]
    with pytest.raises(ValueError, match="Prompt Schedule: this clip gives attention_mask with each prompt, which"):
        schedule(clip=clip)
