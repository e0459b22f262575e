"""LoRA tags and stacks: the meaning of tags, the rest of the prompt, and faults that are refused."""

import pytest

from sdxl_anime_video.temporal.lora.stack import Choice, choose
from sdxl_anime_video.temporal.lora.tags import Tag, resolve, take_tags

DOCUMENT = """(masterpiece, anime), cel shading, clean lines,
<lora:pastelAnimeXL:0.8>, <lora:animeFlatColorXL:0.25>,
1 girl, blue hair"""


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:style:0.8>", Tag("style", 0.8, 0.8)),
        ("<lora:style:0.8:0.5>", Tag("style", 0.8, 0.5)),
        ("<lora: flat colour v1.5 : 1 : 0 >", Tag("flat colour v1.5", 1.0, 0.0)),
        ("<lora:アニメ塗り:-.5>", Tag("アニメ塗り", -0.5, -0.5)),
        ("<LoRA:anime/Pastel XL.safetensors:+1.>", Tag("anime/Pastel XL.safetensors", 1.0, 1.0)),
        ("<lyco:style:10>", Tag("style", 10.0, 10.0)),
    ],
)
def test_a_tag(tag, expected):
    assert take_tags(tag) == ("", [expected])


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [
        ("girl, run", "girl, run"),
        ("  girl ,, run \n\n", "  girl ,, run \n\n"),
        ("girl, <lora:a:1>, run", "girl, run"),
        ("girl <lora:a:1>, run", "girl, run"),
        ("girl <lora:a:1> runs", "girl runs"),
        ("girl<lora:a:1> runs", "girl runs"),
        ("girl,<lora:a:1>,run", "girl,run"),
        ("<lora:a:1> girl", "girl"),
        ("<lora:a:1>, girl", "girl"),
        ("girl, <lora:a:1>", "girl,"),
        ("girl <lora:a:1>", "girl"),
        ("girl <lora:a:1>\n25%: run", "girl\n25%: run"),
        ("girl,\n<lora:a:1>\n0: run", "girl,\n0: run"),
        ("<lora:a:1><lora:b:1> girl", "girl"),
        (DOCUMENT, "(masterpiece, anime), cel shading, clean lines,\n1 girl, blue hair"),
        ("(girl <3:1.2), a < b > c", "(girl <3:1.2), a < b > c"),
        ("girl, (<lora:a:1>:1.2), run", "girl, run"),
        ("girl, ((<lora:a:1>)), run", "girl, run"),
        ("girl, (<lora:a:1> <lora:b:1>:1.2), run", "girl, run"),
        ("[<lora:a:1>] girl (red:1.2)", "girl (red:1.2)"),
        ("(girl <lora:a:1>:1.2), run", "(girl:1.2), run"),
        (r"girl \(<lora:a:1>\), run", r"girl \(\), run"),
    ],
)
def test_what_is_left_of_the_prompt(prompt, rest):
    assert take_tags(prompt)[0] == rest


def test_tags_keep_their_order_and_count_once():
    _, tags = take_tags("0: a <lora:b:1>\n5: c <lora:a:0.5>\n9: d <lora:b:1>")
    assert tags == [Tag("b", 1, 1), Tag("a", 0.5, 0.5)]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("girl, <lora:style", "'<lora:style' is not closed; write it as <lora:name:0.8>"),
        ("<lora:one:1, <lora:two:1>", "'<lora:one:1,' is not closed"),
        ("<lora::0.8>", "'<lora::0.8>' has no name"),
        ("<lora:style>", "'<lora:style>' has no weight; write <lora:name:weight>"),
        ("<lora:style:>", "has the weight '', which is no number"),
        ("<lora:style:0,8>", "has the weight '0,8', which is no number; write one such as 0.8"),
        ("<lora:style:nan>", "has the weight 'nan', which is no number"),
        ("<lora:style:٣>", "which is no number"),
        ("<lora:style:te=1>", "has the weight 'te=1'"),
        ("<lora:style:1:2:3>", "has 3 weights"),
        ("<lora:style:1:10.5>", "has the weight 10.5; it must lie between -10 and 10"),
        ("<lora:style:-11>", "has the weight -11; it must lie between -10 and 10"),
    ],
)
def test_what_is_refused(prompt, words):
    with pytest.raises(ValueError) as refused:
        take_tags(prompt)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


FILES = [
    "anime/Pastel XL.safetensors",
    "old\\flat v1.5.safetensors",
    "new/flat v1.5.safetensors",
    "new/lines.safetensors",
    "lines.pt.safetensors",
    "Cafe\u0301.safetensors",
    "lines.safetensors",
]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("anime/Pastel XL.safetensors", FILES[0]),
        ("anime\\Pastel XL", FILES[0]),
        ("Pastel XL", FILES[0]),
        ("Pastel XL.safetensors", FILES[0]),
        ("old/flat v1.5", FILES[1]),
        ("Caf\u00e9", FILES[5]),
        ("lines", FILES[6]),  # whole paths go before names alone
        ("new/lines", FILES[3]),
        ("lines.pt", FILES[4]),
    ],
)
def test_a_name_means_a_file(name, file):
    assert resolve(name, FILES) == file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flat v1.5", "'flat v1.5' may be any of 'new/flat v1.5.safetensors', 'old"),
        ("pastel xl", "there is no 'pastel xl' in models/loras; did you mean 'anime/Pastel XL.safetensors'?"),
        ("nothing alike", "there is no 'nothing alike' in models/loras; put the file there"),
        ("flat v1", "did you mean"),
    ],
)
def test_a_name_that_means_none_or_several(name, words):
    with pytest.raises(ValueError) as refused:
        resolve(name, FILES)
    assert words in str(refused.value)


STACK = {"lora_1": FILES[0], "weight_1": 0.8, "lora_2": "None", "lora_3": FILES[3], "weight_3": 0.5, "clip_weight_3": 0}


def test_a_stack_is_rows_then_tags_then_the_lora_for_few_steps():
    rest, found = choose("girl, <lora:lines:0.4:0.1>, run", STACK | {"speed_lora": FILES[4]}, FILES)
    assert rest == "girl, run"
    assert found == [
        Choice("lora_1", FILES[0], 0.8, 0.8),
        Choice("lora_3", FILES[3], 0.5, 0),
        Choice("a tag of the prompt", FILES[6], 0.4, 0.1),
        Choice("speed_lora", FILES[4], 1.0, 1.0),
    ]
    assert [choice.speed for choice in found] == [False, False, False, True]
    assert choose("girl", {}, FILES) == ("girl", [])


@pytest.mark.parametrize(
    ("prompt", "rows", "words"),
    [
        ("", {"lora_1": "gone"}, "lora_1 'gone' is not in models/loras; put the file there"),
        ("<lora:Pastel XL:1>", {"lora_1": FILES[0]}, "is named by lora_1 and a tag of the prompt; remove one"),
        ("", {"lora_1": FILES[0], "weight_1": float("nan")}, "lora_1 has weight nan; it must lie between -10 and 10"),
        ("", {"lora_1": FILES[0], "clip_weight_1": -11}, "lora_1 has weight -11; it must lie"),
    ],
)
def test_a_stack_that_is_refused(prompt, rows, words):
    with pytest.raises(ValueError, match=words):
        choose(prompt, rows, FILES)
