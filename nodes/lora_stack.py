"""LoRAs on MODEL and CLIP: three rows, one for few steps, and tags of the prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..temporal.hosts.comfy.errors import at_node
from ..temporal.lora.tags import MOST, resolve, take_tags
from ._api import io
from ._shared import show

NODE = "LoRA Stack"
FOLDER = "loras"
NONE = "None"
ROWS = (1, 2, 3)


class Choice(NamedTuple):
    """One LoRA that was asked for. source: the input that named it; name: below the loras folder."""

    source: str
    name: str
    weight: float
    clip_weight: float


class LoraStack(io.ComfyNode):
    """Applies LoRAs and reports what they are."""

    @classmethod
    def define_schema(cls):
        import folder_paths

        files = [NONE, *folder_paths.get_filename_list(FOLDER)]
        inputs: list[Any] = [
            io.Model.Input("model", tooltip="The SDXL model that the LoRAs go on."),
            io.Clip.Input("clip", tooltip="Its text encoders, which most LoRAs change too."),
        ]
        for row in ROWS:
            inputs += [
                io.Combo.Input(f"lora_{row}", options=files, default=NONE, tooltip=_ROW_TIPS[row]),
                _weight(f"weight_{row}", 0.8 if row == 1 else 0.25 if row == 2 else 0.6, _WEIGHT_TIP),
            ]
        inputs += [
            io.Combo.Input(
                "speed_lora",
                options=files,
                default=NONE,
                tooltip="A LoRA for few steps, such as an LCM LoRA. It goes on last and does not count toward three.",
            ),
            _weight("speed_weight", 1.0, "Weight of speed_lora; these are made for 1."),
            io.String.Input(
                "prompt",
                default="",
                multiline=True,
                dynamic_prompts=True,
                optional=True,
                tooltip="A prompt in which <lora:name:0.8> or <lora:name:0.8:0.5> (model, then text encoders) ask for "
                "further LoRAs. The prompt output has it without the tags.",
            ),
        ]
        inputs += [
            io.Float.Input(
                f"clip_weight_{row}",
                optional=True,
                force_input=True,
                tooltip=f"Weight of lora_{row} on the text encoders, from {-MOST:g} to {MOST:g}; not connected: "
                f"weight_{row}.",
            )
            for row in ROWS
        ]
        return io.Schema(
            node_id="SAV_LoraStack",
            display_name=NODE,
            category="SDXL Anime Video/model",
            description="Puts up to three LoRAs, one for few steps, and those of tags in the prompt on an SDXL model "
            "and its text encoders, and reports what they are. A LoRA for another base model is refused.",
            inputs=inputs,
            outputs=[
                io.Model.Output("patched_model", display_name="model", tooltip="The model with the LoRAs."),
                io.Clip.Output("patched_clip", display_name="clip", tooltip="The text encoders with the LoRAs."),
                io.String.Output("clean_prompt", display_name="prompt", tooltip="The prompt without its LoRA tags."),
                io.String.Output(
                    display_name="report",
                    tooltip="Warnings, and of each LoRA its weights, base model, trigger words and hashes.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, prompt: str | None = "", **rows):
        """Size and time of every file that is used, so that a file that was replaced is read again."""
        try:
            files = [(choice.name, _path(choice).stat()) for choice in _choices(prompt or "", rows)[1]]
        except (OSError, ValueError):
            return ""  # the node itself tells what is wrong
        return [f"{name}/{facts.st_size}/{facts.st_mtime_ns}" for name, facts in files]

    @classmethod
    @at_node(NODE)
    def execute(cls, model, clip, prompt: str = "", **rows) -> io.NodeOutput:
        from ..temporal.hosts.comfy.loras import require_sdxl
        from ..temporal.lora.report import report, warnings

        require_sdxl(model)
        rest, choices = _choices(prompt, rows)
        progress = _progress(sum(_path(choice).stat().st_size for choice in choices))
        entries = []
        for choice in choices:
            model, clip, entry = _apply(model, clip, choice, progress)
            entries.append(entry)
        text = report(entries)
        return io.NodeOutput(model, clip, rest, text, ui=show(NODE, cls.hidden, text, warnings(entries)))


_WEIGHT_TIP = "Its weight, on the text encoders too unless clip_weight of this row is connected. 0 is off."
_ROW_TIPS = {
    1: "The main style, at 0.7 to 0.85. A file in ComfyUI's models/loras.",
    2: "A second style, such as flat colours, at 0.15 to 0.3.",
    3: "A character, at 0.6 to 0.8, if who is in the clip must stay the same. One is enough.",
}


def _weight(name: str, default: float, tip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=-MOST, max=MOST, step=0.01, tooltip=tip)


def _choices(prompt: str, rows: dict[str, Any]) -> tuple[str, list[Choice]]:
    """The prompt without tags, and the LoRAs of rows, tags and speed_lora in the order in which they are applied.

    Raises ValueError for a weight out of range, a file that is not there, and one that is asked for twice.
    """
    import folder_paths

    rest, tags = take_tags(prompt)
    files = folder_paths.get_filename_list(FOLDER)
    found = list(_rows(rows))
    for tag in tags:
        found.insert(-1 if found and found[-1].source == "speed_lora" else len(found), _of_tag(tag, files))
    sources: dict[str, str] = {}
    for choice in found:
        if choice.name not in files:
            raise ValueError(
                f"{choice.source} {choice.name!r} is not in models/{FOLDER}; put the file there and press R on the "
                "page to refresh the list"
            )
        if choice.name in sources:
            raise ValueError(f"{choice.name} is asked for by {sources[choice.name]} and {choice.source}; remove one")
        sources[choice.name] = choice.source
    return rest, found


def _of_tag(tag, files: list[str]) -> Choice:
    return Choice("a tag of the prompt", resolve(tag.name, files), tag.weight, tag.clip_weight)


def _rows(rows: dict[str, Any]) -> Iterator[Choice]:
    """What the combos ask for, speed_lora last."""
    for row in ROWS:
        weight = rows.get(f"weight_{row}", 1.0)
        clip_weight = rows.get(f"clip_weight_{row}")
        yield from _row(f"lora_{row}", rows, weight, weight if clip_weight is None else clip_weight)
    speed = rows.get("speed_weight", 1.0)
    yield from _row("speed_lora", rows, speed, speed)


def _row(source: str, rows: dict[str, Any], weight: float, clip_weight: float) -> Iterator[Choice]:
    name = rows.get(source) or NONE
    if name == NONE:
        return
    for value in (weight, clip_weight):
        if not (math.isfinite(value) and abs(value) <= MOST):
            raise ValueError(f"{source} has weight {value:g}; it must lie between {-MOST:g} and {MOST:g}")
    yield Choice(source, name, weight, clip_weight)


def _path(choice: Choice) -> Path:
    """Where the file is. Raises FileNotFoundError for one that is listed and yet cannot be opened."""
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, choice.name)
    if path is None:  # core lists links without a target too
        raise FileNotFoundError(
            f"{choice.source} {choice.name!r} is a link to a file that is not there, or has just been removed; put the "
            f"file itself into models/{FOLDER}"
        )
    return Path(path)


def _apply(model, clip, choice: Choice, progress):
    """(MODEL, CLIP, Entry) with one LoRA put on."""
    from ..temporal.hosts.comfy.loras import apply_lora, check_fit
    from ..temporal.lora.file import describe, hashes
    from ..temporal.lora.keys import LoraError
    from ..temporal.lora.report import Entry
    from ..temporal.weights.header import WeightsFileError, read_header

    path = _path(choice)
    try:
        file = describe(read_header(path))
        fit = check_fit(model, clip, file)
        sums = hashes(path, progress(path.stat().st_size))
        if choice.weight or choice.clip_weight:
            model, clip = apply_lora(model, clip, path, choice.weight, choice.clip_weight)
    except WeightsFileError as error:
        remedy = " Save it as safetensors." if error.pickle else ""
        raise LoraError(f"{choice.source}: {choice.name} {error}{remedy}") from None
    except LoraError as error:
        raise LoraError(f"{choice.source}: {choice.name} {error}") from None
    entry = Entry(*choice, choice.source == "speed_lora", file, *sums, **vars(fit))
    return model, clip, entry


def _progress(total: int):
    """ComfyUI's bar over the bytes of all files: called with a file's size, gives what is told the bytes read of it."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(max(total, 1))
    begun = 0

    def begin(size: int):
        nonlocal begun
        before, begun = begun, begun + size

        def read(done: int) -> None:
            throw_exception_if_processing_interrupted()
            bar.update_absolute(before + done)

        return read

    return begin
