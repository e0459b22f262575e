"""Long clips, a window at a time."""

from ..temporal.clip.contract import NoiseSettings, Windows
from ..temporal.clip.segments import FUSES, SCHEDULES, plan_windows, window_weights
from ..temporal.hosts.comfy.sampling.wrapper import record
from ._api import io
from ._shared import named_classmethod, patched_model


class ContextWindows(io.ComfyNode):
    """Records context windows on a MODEL: it sees a few frames at a time, in overlapping windows, at every step."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ContextWindows",
            display_name="Context Windows",
            category="SDXL Anime Video/long clips",
            description="Shows the model a long clip in overlapping windows at every step and blends its predictions. "
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
                    tooltip="uniform: the borders move from step to step, so that none shows. static: they stay. "
                    "looped: windows continue past the end at the beginning, for clips that loop.",
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
            outputs=patched_model("with context windows"),
        )

    @named_classmethod
    def execute(cls, model, length, overlap, schedule, fuse, freenoise=False) -> io.NodeOutput:
        plan_windows(1, length, overlap, schedule)
        window_weights(length, overlap, fuse)
        windows = Windows(length, overlap, schedule, fuse)
        model = record(model, lambda contract: contract.with_windows(windows))
        if freenoise:
            noise = NoiseSettings("freenoise", 1.0, length, overlap)
            model = record(model, lambda contract: contract.with_noise(noise))
        return io.NodeOutput(model)
