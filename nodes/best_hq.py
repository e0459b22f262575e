"""BestHQ for SamplerCustom and SamplerCustomAdvanced: DPM++ 2M on Karras sigmas, with frame smoothing."""

from __future__ import annotations

from ..schedulers.comfy import best_hq_sigmas
from ._api import io

CATEGORY = "SDXL Anime Video/sampling"


class BestHQSigmas(io.ComfyNode):
    """Karras noise levels between the ends of the model's own schedule."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_BestHQSigmas",
            display_name="BestHQ Sigmas",
            category=CATEGORY,
            description="Karras noise levels for this model: many small steps where detail forms.",
            inputs=[
                io.Model.Input("model", tooltip="The model to be sampled; its noise schedule gives both ends."),
                io.Int.Input(
                    "steps",
                    default=28,
                    min=1,
                    max=10000,
                    tooltip="Number of sampling steps. 24 to 28 suit anime clips; below 18 detail suffers.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from pure noise. Less keeps more of the input latent, with the same number of "
                    "steps on the lower part of the schedule. 0 does nothing.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="Falling noise levels, one more than steps, ending at 0."
                )
            ],
        )

    @classmethod
    def execute(cls, model, steps, denoise=1.0) -> io.NodeOutput:
        if steps < 1:
            raise ValueError(f"SAV_BestHQSigmas: steps is {steps}; it must be 1 or more")
        if not 0 <= denoise <= 1:
            raise ValueError(f"SAV_BestHQSigmas: denoise is {denoise:g}; it must lie between 0 and 1")
        try:
            return io.NodeOutput(best_hq_sigmas(model.get_model_object("model_sampling"), steps, denoise))
        except ValueError as error:
            raise ValueError(f"SAV_BestHQSigmas: {error}") from None


class BestHQSampler(io.ComfyNode):
    """DPM++ 2M, optionally with every noisy frame drawn towards the frame before it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_BestHQSampler",
            display_name="BestHQ Sampler",
            category=CATEGORY,
            description="DPM++ 2M for clips. Without smoothing it equals core's dpmpp_2m to the last bit.",
            inputs=[
                io.Float.Input(
                    "smoothing",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Before every step each noisy frame moves this far towards the frame before it. Needs "
                    "correlated noise: independent noise averages out and the picture blurs. 0.1 is strong.",
                )
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler", tooltip="For SamplerCustom or SamplerCustomAdvanced, with BestHQ Sigmas."
                )
            ],
        )

    @classmethod
    def execute(cls, smoothing=0.0) -> io.NodeOutput:
        from ..temporal.hosts.comfy.presets import best_hq_sampler

        if not 0 <= smoothing <= 1:
            raise ValueError(f"SAV_BestHQSampler: smoothing is {smoothing:g}; it must lie between 0 and 1")
        return io.NodeOutput(best_hq_sampler(smoothing))
