"""Sampler, noise levels, CFG and steps that go together."""

import math

from ..schedulers.presets import PRESETS, warnings
from ._api import io
from ._shared import check_between, check_choice, denoise_input, named_classmethod, show


class SamplingPreset(io.ComfyNode):
    """Chooses a way to sample a clip, and warns if the graph lacks what it needs."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_SamplingPreset",
            display_name="Sampling Preset",
            category="SDXL Anime Video/sampling",
            description="Sampler, noise levels, CFG and steps that go together: best_hq for quality, lcm for few steps "
            "with an LCM LoRA, sde with noise at every step. Warns if the graph lacks what the preset needs.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model with all its LoRAs; connect it before the sampler."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="best_hq",
                    tooltip="best_hq: 28 steps of DPM++ 2M on Karras noise levels, CFG 6.25. lcm: 6 steps at CFG 1.7; "
                    "needs an LCM LoRA. sde: DPM++ 2M SDE, 28 steps, CFG 6.25; needs Correlated Noise.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=10000, optional=True, tooltip="Sampling steps. 0: the preset's."
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    optional=True,
                    tooltip="Strength of the prompt. 0: the preset's. 5.5 to 7 suit best_hq and sde, 1.5 to 2 lcm.",
                ),
                denoise_input(optional=True),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="The model to sample: lcm sets it to LCM sampling, other presets leave it unchanged.",
                ),
                io.Sampler.Output(
                    display_name="sampler", tooltip="For SamplerCustom or SamplerCustomAdvanced, with these sigmas."
                ),
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="Falling noise levels, one more than steps, ending at 0."
                ),
                io.Float.Output("cfg_out", display_name="cfg", tooltip="For the cfg of the sampler or CFGGuider."),
                io.Int.Output(
                    "steps_out", display_name="steps", tooltip="Number of steps, for other nodes that need it."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @named_classmethod
    def execute(cls, model, preset, steps=0, cfg=0.0, denoise=1.0) -> io.NodeOutput:
        from ..temporal.hosts.comfy.presets import prepared
        from ..temporal.hosts.comfy.surroundings import surroundings

        check_choice("preset", preset, PRESETS)
        chosen = PRESETS[preset]
        if steps < 0:
            raise ValueError(f"steps is {steps}; it must be 1 or more, or 0 for the preset's")
        if not (math.isfinite(cfg) and cfg >= 0):
            raise ValueError(f"cfg is {cfg:g}; it must be above 0, or 0 for the preset's")
        check_between("denoise", denoise, 0, 1)
        steps, cfg = steps or chosen.steps, cfg or chosen.cfg
        # a call outside of a graph has no hidden inputs
        graph, node = ({}, "") if cls.hidden is None else (cls.hidden.prompt or {}, str(cls.hidden.unique_id))
        doubts = warnings(preset, steps, cfg, surroundings(model, graph, node))
        model, sampler, sigmas = prepared(model, preset, steps, denoise)
        text = "\n".join([f"{chosen.sampler}, {steps} steps, CFG {cfg:g}", *(f"Warning: {doubt}." for doubt in doubts)])
        return io.NodeOutput(model, sampler, sigmas, cfg, steps, ui=show(cls, text, doubts))
