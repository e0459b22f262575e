"""Smoothing along time, for any sampler."""

from ..temporal.clip.contract import Smoothing
from ..temporal.hosts.comfy.sampling.wrapper import record
from ._api import io
from ._shared import check_between, check_percents, named_classmethod, patched_model, percent_inputs, share_input


class FrameSmoothing(io.ComfyNode):
    """Records smoothing of the denoised prediction on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_FrameSmoothing",
            display_name="Frame Smoothing",
            category="SDXL Anime Video/sampling",
            description="Moves the prediction of every frame a little toward that of the frame before, at each step: "
            "less jitter, softer fast motion.",
            inputs=[
                io.Model.Input("model", tooltip="The model to be sampled."),
                share_input(
                    "amount",
                    0.1,
                    "Share of the previous frame in each frame's prediction. 0 changes nothing, 0.1 calms jitter; "
                    "above 0.3 fast motion leaves ghosts.",
                ),
                *percent_inputs("smoothing"),
            ],
            outputs=patched_model("with smoothing"),
        )

    @named_classmethod
    def execute(cls, model, amount, start_percent, end_percent) -> io.NodeOutput:
        check_percents(start_percent, end_percent)
        check_between("amount", amount, 0, 1)
        if amount == 0:
            return io.NodeOutput(model)
        smoothing = Smoothing(amount, start_percent, end_percent)
        return io.NodeOutput(record(model, lambda contract: contract.with_smoothing(smoothing)))
