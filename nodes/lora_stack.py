"""LoRAs on MODEL and CLIP: three rows, a speed LoRA, and tags of the prompt."""

from typing import Any

from ..temporal.lora.stack import NONE, ROWS, choose
from ..temporal.lora.tags import MOST
from ._api import io
from ._shared import named_classmethod, show, strength_input


class LoraStack(io.ComfyNode):
    """Applies LoRAs and reports on each."""

    @classmethod
    def define_schema(cls):
        files = [NONE, *_files()]
        inputs: list[Any] = [
            io.Model.Input("model", tooltip="The SDXL model."),
            io.Clip.Input("clip", tooltip="Its text encoders, which most LoRAs change too."),
        ]
        for row, (weight, tooltip) in _ROWS.items():
            inputs += [
                io.Combo.Input(f"lora_{row}", options=files, default=NONE, tooltip=tooltip),
                strength_input(_WEIGHT_TIP, f"weight_{row}", weight),
            ]
        inputs += [
            io.Combo.Input(
                "speed_lora",
                options=files,
                default=NONE,
                tooltip="A LoRA for few steps, such as an LCM LoRA. It is applied last, in addition to the three rows.",
            ),
            strength_input("Weight of speed_lora; these are made for 1.", "speed_weight"),
            io.String.Input(
                "prompt",
                default="",
                multiline=True,
                dynamic_prompts=True,
                optional=True,
                tooltip="A prompt in which <lora:name:0.8> or <lora:name:0.8:0.5> (weight on the model, then on the "
                "text encoders) adds further LoRAs. The prompt output is the prompt without these tags.",
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
            display_name="LoRA Stack",
            category="SDXL Anime Video/model",
            description="Applies up to three LoRAs, a speed LoRA, and the LoRAs of tags in the prompt to an SDXL model "
            "and its text encoders, and reports on each. A LoRA for another base model is refused.",
            inputs=inputs,
            outputs=[
                io.Model.Output("patched_model", display_name="model", tooltip="The model with the LoRAs."),
                io.Clip.Output("patched_clip", display_name="clip", tooltip="The text encoders with the LoRAs."),
                io.String.Output("clean_prompt", display_name="prompt", tooltip="The prompt without its LoRA tags."),
                io.String.Output(
                    display_name="report",
                    tooltip="Warnings, then the weights, base model, trigger words and hashes of each LoRA.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, prompt: str | None = "", **rows):
        """Return size and time of every file in use, so that a replaced file is read again."""
        from ..temporal.hosts.comfy.loras import path_of

        try:
            files = [(choice.name, path_of(choice).stat()) for choice in choose(prompt or "", rows, _files())[1]]
        except (OSError, ValueError):
            return ""  # the node itself reports the fault
        return [f"{name}/{facts.st_size}/{facts.st_mtime_ns}" for name, facts in files]

    @named_classmethod
    def execute(cls, model, clip, prompt="", **rows) -> io.NodeOutput:
        from ..temporal.hosts.comfy.loras import apply_stack
        from ..temporal.lora.report import report, warnings

        rest, choices = choose(prompt, rows, _files())
        model, clip, entries = apply_stack(model, clip, choices)
        text = report(entries)
        return io.NodeOutput(model, clip, rest, text, ui=show(cls, text, warnings(entries)))


def _files() -> list[str]:
    import folder_paths

    return folder_paths.get_filename_list("loras")


_WEIGHT_TIP = "Weight of this row's LoRA, also on the text encoders unless its clip_weight is connected. 0 is off."
_ROWS = {
    1: (0.8, "The main style, at 0.7 to 0.85. A file in ComfyUI's models/loras."),
    2: (0.25, "A second style, such as flat colours, at 0.15 to 0.3."),
    3: (0.6, "A character, at 0.6 to 0.8, to keep it the same throughout the clip. One is enough."),
}
