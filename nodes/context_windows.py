"""Long clips, a window at a time."""

from __future__ import annotations

from ..temporal.clip.segments import FUSES, SCHEDULES
from ._api import io

CATEGORY = "SDXL Anime Video/long clips"
NODE = "SAV_ContextWindows"


class ContextWindows(io.ComfyNode):
    """Has the model see a few frames at a time, in overlapping windows, at every step of any sampler."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Context Windows",
            category=CATEGORY,
            description="Shows the model a long clip in overlapping windows at every step and blends what it says. "
            "ControlNet hints, prompts and anchors follow the window.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model, usually with a temporal adapter."),
                io.Int.Input(
                    "length",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames in a window: at most as many as the temporal adapter was trained on.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4095,
                    tooltip="Frames that neighbouring windows share: more is smoother and slower. Below length.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="uniform",
                    tooltip="uniform: the borders move from step to step, so none is seen. static: they stay. looped: "
                    "windows run over the end into the beginning, for clips that loop.",
                ),
                io.Combo.Input(
                    "fuse",
                    options=list(FUSES),
                    default="pyramid",
                    tooltip="How shared frames are blended. pyramid: the middle of a window counts most. "
                    "overlap_linear: cross-fade over the overlap. flat: plain mean.",
                ),
                io.Boolean.Input(
                    "freenoise",
                    default=False,
                    optional=True,
                    tooltip="Reuse the first window's noise, shuffled, in later windows, so that they resemble it "
                    "(FreeNoise). The same as Correlated Noise in that mode at correlation 1.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="The model with context windows, for any sampler, KSampler included.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model, length: int, overlap: int, schedule: str, fuse: str, freenoise: bool = False
    ) -> io.NodeOutput:
        from ..temporal.clip.contract import NoiseSettings, Windows
        from ..temporal.clip.segments import plan_windows, window_weights
        from ..temporal.hosts.comfy.sampling.wrapper import record

        try:
            plan_windows(1, length, overlap, schedule)
            window_weights(length, overlap, fuse)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from None
        windows = Windows(length, overlap, schedule, fuse)
        model = record(model, lambda contract: contract.with_windows(windows))
        if freenoise:
            noise = NoiseSettings("freenoise", 1.0, length, overlap)
            model = record(model, lambda contract: contract.with_noise(noise))
        return io.NodeOutput(model)
