"""Correlated noise, for any sampler."""

from ..temporal.clip.contract import NoiseSettings
from ..temporal.clip.noise import MODES, check_settings
from ..temporal.hosts.comfy.sampling.wrapper import record
from ._api import io
from ._shared import named_classmethod, patched_model


class CorrelatedNoise(io.ComfyNode):
    """Records correlated noise on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_CorrelatedNoise",
            display_name="Correlated Noise",
            category="SDXL Anime Video/sampling",
            description="Gives the frames of a clip correlated noise, at the start and in every step of ancestral, "
            "SDE and LCM samplers. The sampler's seed still decides the noise.",
            inputs=[
                io.Model.Input("model", tooltip="The model to be sampled."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="shared",
                    tooltip="shared: every frame mixes one common noise with its own. additive: the common noise plus "
                    "a little of its own, not rescaled; for correlation near 1. progressive: each frame's noise "
                    "follows from the frame before, so distant frames differ. freenoise: after the first window, "
                    "frames reuse earlier noise in shuffled order; for long clips in windows.",
                ),
                io.Float.Input(
                    "correlation",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    tooltip="Correlation of neighbouring frames' noise. 0: independent frames, the same result as "
                    "without this node. 1: the same noise for all frames. 0.9991 is a common noise plus 0.03 of each "
                    "frame's own, 0.9975 plus 0.05. High values reduce flicker, but motion too. freenoise: "
                    "correlation with the reused frame.",
                ),
                io.Int.Input(
                    "window",
                    default=16,
                    min=2,
                    max=4096,
                    optional=True,
                    tooltip="freenoise only: frames with noise of their own before reuse begins; set it to the length "
                    "of Context Windows.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4095,
                    optional=True,
                    tooltip="freenoise only: frames that neighbouring windows have in common. Must be below window.",
                ),
            ],
            outputs=patched_model("with correlated noise"),
        )

    @named_classmethod
    def execute(cls, model, mode, correlation, window=16, overlap=4) -> io.NodeOutput:
        check_settings(mode, correlation, window, overlap)
        if correlation == 0:
            return io.NodeOutput(model)
        settings = NoiseSettings(mode, correlation, window, overlap)
        return io.NodeOutput(record(model, lambda contract: contract.with_noise(settings)))
