"""BestHQ for SamplerCustom and SamplerCustomAdvanced: DPM++ 2M on Karras sigmas, with frame smoothing."""

from ..schedulers.comfy import best_hq_sigmas
from ._api import io
from ._shared import check_at_least, check_between, denoise_input, named_classmethod, share_input

CATEGORY = "SDXL Anime Video/sampling"


class BestHQSigmas(io.ComfyNode):
    """Makes Karras noise levels between the ends of the model's own schedule."""

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
                denoise_input(),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="Falling noise levels, one more than steps, ending at 0."
                )
            ],
        )

    @named_classmethod
    def execute(cls, model, steps, denoise=1.0) -> io.NodeOutput:
        check_at_least("steps", steps, 1)
        check_between("denoise", denoise, 0, 1)
        return io.NodeOutput(best_hq_sigmas(model.get_model_object("model_sampling"), steps, denoise))


class BestHQSampler(io.ComfyNode):
    """Makes a DPM++ 2M sampler that can move every noisy frame toward the frame before it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_BestHQSampler",
            display_name="BestHQ Sampler",
            category=CATEGORY,
            description="DPM++ 2M for clips. Without smoothing it equals core's dpmpp_2m to the last bit.",
            inputs=[
                share_input(
                    "smoothing",
                    0.0,
                    "Before every step each noisy frame moves by this share toward the frame before it. Needs "
                    "correlated noise: independent noise averages out and the picture blurs. 0.1 is strong.",
                )
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler", tooltip="For SamplerCustom or SamplerCustomAdvanced, with BestHQ Sigmas."
                )
            ],
        )

    @named_classmethod
    def execute(cls, smoothing=0.0) -> io.NodeOutput:
        from ..temporal.hosts.comfy.presets import best_hq_sampler

        check_between("smoothing", smoothing, 0, 1)
        return io.NodeOutput(best_hq_sampler(smoothing))
