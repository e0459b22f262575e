"""Prompt schedules: what is read, what each frame is made of, and the arithmetic of embeddings."""

import math

import pytest
import torch

from sdxl_anime_video.temporal.clip.prompts import (
    INTERPOLATIONS,
    Keyframe,
    Mix,
    equal_lengths,
    mix_keyframes,
    parse_schedule,
    slerp,
    spread,
)


def read(text, frames=64):
    return [(keyframe.frame, keyframe.prompt) for keyframe in parse_schedule(text, frames)]


@pytest.mark.parametrize(
    "text, frames, expected",
    [
        ("0: girl running\n25%: girl jumps\n48: girl lands\n-1: girl waves", 65,
         [(0, "girl running"), (16, "girl jumps"), (48, "girl lands"), (64, "girl waves")]),
        ("girl running", 8, [(0, "girl running")]),
        ("girl,\n  blue hair", 8, [(0, "girl,\nblue hair")]),
        ("48: c\n0: a\n50%: b", 64, [(0, "a"), (32, "b"), (48, "c")]),
        ("12: a", 64, [(12, "a")]),
        ("# plan\n\n0: a\n  # not yet: 8: b\n// nor this\n\n16: c\n", 64, [(0, "a"), (16, "c")]),
        ("girl,\nblue hair,\n0: run\n8: jump", 16, [(0, "girl,\nblue hair,\nrun"), (8, "girl,\nblue hair,\njump")]),
        ("0: girl,\nblue hair,\n\n  red dress\n8: cat", 16, [(0, "girl,\nblue hair,\nred dress"), (8, "cat")]),
        ("0:\n8:   \n  dress", 16, [(0, ""), (8, "dress")]),
        ("0 : a\n 50 % :b\n\t12.5%:c", 9, [(0, "a"), (1, "c"), (4, "b")]),
        ("+3: a\r\n5: b", 16, [(3, "a"), (5, "b")]),
        ("0\uff1a\u8d70\u308b\n8\uff1a(\u8df3\u3076:1.2)", 16, [(0, "\u8d70\u308b"), (8, "(\u8df3\u3076:1.2)")]),
        ("0: a\n100%: b", 2, [(0, "a"), (1, "b")]),
        ("-1: a", 1, [(0, "a")]),
    ],
)  # fmt: skip
def test_schedules_as_read(text, frames, expected):
    assert read(text, frames) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "girl, (blue hair:1.2), ((run))",
        "embedding:bad_hands:0.8, a 16:9 picture",
        "<lora:toon:0.7>, ratio: 2:3",
        "1girl: 2, 50% grey # not a comment",
        "100%: b",
    ],
)
def test_what_a_prompt_says_is_untouched(prompt):
    assert read(f"8: {prompt}\n0: cat") == [(0, "cat"), (8, prompt)]


@pytest.mark.parametrize(
    "line", ["1girl: red", "(16:9)", "embedding:x", ": a", "12 girls: dancing", "frame 3: a", "50"]
)
def test_lines_that_begin_with_no_position_are_words(line):
    assert read(f"0: girl\n{line}") == [(0, f"girl\n{line}")]
    assert read(line) == [(0, line)]


def test_line_numbers_count_every_line():
    keyframes = parse_schedule("# plan\n\n8: a\n# b\nwords\n0: c", 16)
    assert keyframes == [Keyframe(0, "c", 6), Keyframe(8, "a\nwords", 3)]


@pytest.mark.parametrize(
    "word", ["1.5", "101%", "-5%", "1-3", "0, 8", "0 8", "%", '"0"', "'8'", "\u22121", "25%%", "5."]
)
def test_unreadable_positions_name_line_text_and_remedy(word):
    with pytest.raises(ValueError) as error:
        read(f"0: girl\n\n{word}: jumps")
    message = str(error.value)
    assert message.startswith(f"line 3 ({f'{word}: jumps'!r}): cannot read position {word!r}; ")
    assert (
        "begin the line with one frame number, such as 0 or -1 (the last), or a percentage from 0% to 100%" in message
    )


@pytest.mark.parametrize(
    "text, frames, message",
    [
        ("0: a\n16: b", 16, r"line 2 \('16: b'\): position 16 is outside the clip of 16 frame\(s\); use 0 to 15"),
        ("-17: b", 16, r"line 1 \('-17: b'\): position -17 is outside the clip of 16"),
        ("0: a\n# x\n0%: b", 16, r"line 1 \('0: a'\) and line 3 \('0%: b'\) are both frame 0 of 16; remove one"),
        ("0: a\n-1: b", 1, r"line 1 \('0: a'\) and line 2 \('-1: b'\) are both frame 0 of 1"),
        ("99: " + "long " * 40, 16, r"line 1 \('99: long [^']{30,40}\.\.\.'\): position 99"),
        ("", 16, "prompts holds no prompt, only blank lines and comments .*; write a prompt"),
        ("# a\n\n  // 0: b\n", 16, "prompts holds no prompt"),
        ("0: a", 0, "frames is 0; it must be 1 or more"),
        ("0: a", -3, "frames is -3"),
    ],
)
def test_schedules_that_do_not_fit(text, frames, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read(text, frames)


def mixes(at, frames, interpolation, segment_frames=0, overlap=0):
    keyframes = [Keyframe(frame, f"prompt {frame}", line) for line, frame in enumerate(at, 1)]
    return mix_keyframes(keyframes, frames, interpolation, segment_frames, overlap)


def blended(at, frames, interpolation, *segments):
    """The frame that each frame's mix points at, between the keyframes' own."""
    return [at[m.a] + m.weight * (at[m.b] - at[m.a]) for m in mixes(at, frames, interpolation, *segments)]


def test_hold_is_a_step():
    assert blended([0, 2, 5], 8, "hold") == [0, 0, 2, 2, 2, 5, 5, 5]
    assert {mix.weight for mix in mixes([0, 2, 5], 8, "hold")} == {0.0}


@pytest.mark.parametrize("interpolation", ["linear", "slerp"])
def test_linear_moves_evenly_between_keyframes(interpolation):
    # Before the first keyframe there is only the first, after the last only the last.
    assert blended([2, 6, 7], 10, interpolation) == [2, 2, 2, 3, 4, 5, 6, 7, 7, 7]
    assert mixes([2, 6, 7], 10, interpolation)[3] == Mix(0, 1, 0.25)


def test_smooth_is_smoothstep():
    weights = [mix.weight for mix in mixes([0, 8], 9, "smooth")]
    assert weights[:8] == pytest.approx([3 * (t / 8) ** 2 - 2 * (t / 8) ** 3 for t in range(8)])
    assert weights[4] == 0.5
    assert all(weights[t] + weights[8 - t] == pytest.approx(1) for t in range(1, 8))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_keyframes_and_single_prompts_are_never_mixed(interpolation):
    at = [0, 3, 4, 9]
    assert [mixes(at, 10, interpolation)[frame] for frame in at] == [Mix(k, k, 0.0) for k in range(4)]
    assert mixes([5], 8, interpolation) == [Mix(0, 0, 0.0)] * 8
    assert mixes([0], 1, interpolation) == [Mix(0, 0, 0.0)]


def test_segments_hold_what_their_first_new_frame_has():
    # 16 with overlap 4 begin anew at 0, 16, 28 and 40; the last is cut short by the clip's end.
    assert blended([0, 16, 20], 44, "hold", 16, 4) == [0] * 16 + [16] * 12 + [20] * 16
    assert blended([0, 40], 44, "linear", 16, 4) == pytest.approx([0] * 16 + [16] * 12 + [28] * 12 + [40] * 4)
    assert blended([0, 8], 12, "linear", 4, 0) == [0] * 4 + [4] * 4 + [8] * 4
    assert blended([0], 12, "hold", 16, 4) == [0] * 12


@pytest.mark.parametrize("segment_frames, overlap", [(16, 4), (16, 0), (5, 3), (2, 1), (1, 0), (64, 8)])
def test_prompts_change_at_every_segment_border_and_nowhere_else(segment_frames, overlap):
    frames = 50
    borders = [0, *range(segment_frames, frames, segment_frames - overlap)]
    changing = mixes(borders, frames, "hold", segment_frames, overlap)
    assert [frame for frame in range(1, frames) if changing[frame] != changing[frame - 1]] == borders[1:]
    assert len(changing) == frames


@pytest.mark.parametrize(
    "at, interpolation, segments, message",
    [
        ([0, 17, 20], "hold", (16, 4), r"line 2 \('prompt 17'\): no frame would show the prompt of frame 17, .* move "
         "it to frame 16 or 28, or set segment_frames to 0"),
        ([0, 43], "hold", (16, 4), "frame 43, .* move it to frame 40, or"),
        ([0, 40, 41, 43], "linear", (16, 4), "frame 41, .* move it to frame 40, or"),
        ([0], "hold", (4, 4), "segments of 4 frames cannot overlap by 4; set both as on Segment Chain"),
        ([0], "hold", (4, -1), "segments of 4 frames cannot overlap by -1"),
        ([0], "hold", (-1, 0), "segments of -1 frames"),
        ([0], "cubic", (0, 0), "interpolation is 'cubic'; choose one of hold, linear, smooth, slerp"),
    ],
)  # fmt: skip
def test_mixes_that_cannot_be(at, interpolation, segments, message):
    with pytest.raises(ValueError, match=f"^.*{message}"):
        mixes(at, 44, interpolation, *segments)


def test_an_overlap_without_segments_is_not_used():
    assert mixes([0, 3], 6, "hold", 0, 99) == mixes([0, 3], 6, "hold")


def at_angle(degrees, length=1.0):
    return length * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])


@pytest.mark.parametrize("weight", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("turn", [1.0, 60.0, 90.0, 150.0, 179.0])
def test_slerp_turns_and_stretches_evenly(turn, weight):
    result = slerp(at_angle(10, 1.0), at_angle(10 + turn, 3.0), weight)
    assert torch.allclose(result, at_angle(10 + weight * turn, 1.0 + 2.0 * weight), atol=1e-5)


def test_slerp_keeps_lengths_that_lerp_loses():
    a, b = torch.nn.functional.normalize(torch.randn(2, 77, 64), dim=-1)
    assert torch.allclose(slerp(a, b, 0.5).norm(dim=-1), torch.ones(77), atol=1e-5)
    assert (torch.lerp(a, b, 0.5).norm(dim=-1) < 0.9).all()


@pytest.mark.parametrize(
    "a, b",
    [
        (at_angle(30, 1.0), at_angle(30, 5.0)),
        (at_angle(30, 1.0), at_angle(30.01, 5.0)),
        (torch.zeros(3), at_angle(30, 2.0)),
        (at_angle(30, 2.0), torch.zeros(3)),
        (torch.zeros(3), torch.zeros(3)),
        (at_angle(30, 2.0), at_angle(210, 2.0)),
    ],
)
def test_slerp_goes_straight_where_there_is_no_arc(a, b):
    assert torch.equal(slerp(a, b, 0.3), torch.lerp(a, b, 0.3))


def test_slerp_treats_each_token_on_its_own():
    a = torch.stack([at_angle(0), at_angle(45), torch.zeros(3)])
    b = torch.stack([at_angle(90), at_angle(45), at_angle(0)])
    expected = torch.stack([at_angle(45), at_angle(45), at_angle(0, 0.5)])
    assert torch.allclose(slerp(a, b, 0.5), expected, atol=1e-6)


def test_rows_of_a_clip():
    values = list(torch.randn(3, 1, 7, 8))
    plan = [Mix(0, 0, 0.0), Mix(0, 1, 0.25), Mix(1, 2, 0.5), Mix(2, 2, 0.0)]
    for interpolation in ("linear", "smooth"):
        rows = spread(values, plan, interpolation)
        assert rows.shape == (4, 7, 8)
        assert torch.equal(rows[[0, 3]], torch.cat([values[0], values[2]]))
        assert torch.allclose(rows[1:2], 0.75 * values[0] + 0.25 * values[1], atol=1e-6)
    turned = spread(values, plan, "slerp")
    assert torch.equal(turned[[0, 3]], torch.cat([values[0], values[2]]))
    assert torch.allclose(turned[2:3], slerp(values[1], values[2], 0.5))


def test_towers_turn_on_their_own():
    a, b = torch.randn(2, 1, 7, 12)
    (row,) = spread([a, 100 * b], [Mix(0, 1, 0.4)], "slerp", [4, 8])
    assert torch.allclose(row[:, :4], slerp(a[0, :, :4], 100 * b[0, :, :4], 0.4))
    assert torch.allclose(row[:, 4:], slerp(a[0, :, 4:], 100 * b[0, :, 4:], 0.4))
    assert not torch.allclose(row, slerp(a[0], 100 * b[0], 0.4), rtol=1e-2)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_repeated_prompt_stays_to_the_bit(interpolation):
    value = torch.randn(1, 7, 8)
    assert torch.equal(spread([value, value], [Mix(0, 1, 0.3)], interpolation), value)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_half_precision_is_mixed_in_single(interpolation):
    a, b = torch.randn(2, 1, 7, 64).half()
    rows = spread([a, b], [Mix(0, 1, 0.3)], interpolation)
    assert rows.dtype == torch.float16
    assert torch.equal(rows, spread([a.float(), b.float()], [Mix(0, 1, 0.3)], interpolation).half())


@pytest.mark.parametrize("chunks", [(7, 7, 7), (1, 30), (3, 4), (4, 5), (40,), (1, 2, 3, 4)])
def test_prompts_of_one_length_stay_and_others_are_repeated_whole(chunks):
    texts = [torch.randn(1, 77 * n, 4) for n in chunks]
    equal = equal_lengths(texts)
    assert {text.shape[1] for text in equal} == {77 * math.lcm(*chunks)}
    for text, longer in zip(texts, equal, strict=True):
        assert torch.equal(longer, text.repeat(1, longer.shape[1] // text.shape[1], 1))


@pytest.mark.parametrize("chunks", [(2, 3, 5, 7), (5, 6), (3, 5, 4, 3)])
def test_lengths_without_a_common_one_are_named(chunks):
    lengths = ", ".join(str(77 * n) for n in sorted(set(chunks)))
    with pytest.raises(
        ValueError, match=rf"^prompts of {lengths} tokens .* {77 * math.lcm(*chunks):,} tokens.*shorten"
    ):
        equal_lengths([torch.randn(1, 77 * n, 4) for n in chunks])


def test_attention_does_not_notice_repeated_tokens():
    query, (short, long) = torch.randn(1, 5, 16), equal_lengths([torch.randn(1, 3, 16), torch.randn(1, 6, 16)])
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.allclose(attend(query, short, short), attend(query, short[:, :3], short[:, :3]), atol=1e-6)
    padded = torch.cat([short[:, :3], torch.zeros(1, 3, 16)], dim=1)
    assert not torch.allclose(attend(query, padded, padded), attend(query, short[:, :3], short[:, :3]), atol=1e-2)
    assert long.shape == short.shape
