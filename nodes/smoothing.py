"""Smoothing along time, for any sampler."""

from __future__ import annotations

from ..temporal.clip.contract import Smoothing
from ..temporal.hosts.comfy.sampling.wrapper import record
from ._api import io
from ._ranges import check_range, percent_inputs


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
                io.Float.Input(
                    "amount",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the previous frame in each frame's prediction. 0 changes nothing, 0.1 calms "
                    "jitter; above 0.3 fast motion leaves ghosts.",
                ),
                *percent_inputs("smoothing"),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="The model with smoothing, for any sampler, KSampler included.",
                )
            ],
        )

    @classmethod
    def execute(cls, model, amount: float, start_percent: float, end_percent: float) -> io.NodeOutput:
        check_range("SAV_FrameSmoothing", start_percent, end_percent)
        if not 0 <= amount <= 1:
            raise ValueError(f"SAV_FrameSmoothing: amount is {amount:g}; it must lie between 0 and 1")
        if amount == 0:
            return io.NodeOutput(model)
        smoothing = Smoothing(amount, start_percent, end_percent)
        return io.NodeOutput(record(model, lambda contract: contract.with_smoothing(smoothing)))
