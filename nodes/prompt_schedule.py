"""Prompts that change over a clip, as ordinary conditioning with one row a frame."""

from ..temporal.clip.prompts import INTERPOLATIONS, mix_keyframes, parse_schedule
from ._api import io
from ._shared import frames_input, named_classmethod

EXAMPLE = "girl, blue hair,\n0: running\n25%: jumping\n12: landing"


class PromptSchedule(io.ComfyNode):
    """Encodes the prompts of a clip into one row of conditioning a frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_PromptSchedule",
            display_name="Prompt Schedule",
            category="SDXL Anime Video/conditioning",
            description="Prompts that change over a clip: one per keyframe, held or interpolated in between. The "
            "conditioning has one row a frame and connects wherever a text encoder's would.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of the SDXL model."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    placeholder=EXAMPLE,
                    dynamic_prompts=True,
                    tooltip="One prompt a keyframe: a frame number (-1 is the last) or a percentage, a colon, the "
                    "prompt. Lines without a position continue the prompt above; before the first position they begin "
                    "every prompt. Lines that start with # are comments.",
                ),
                frames_input("Frames in the clip, the same as the latent's: connect Empty Video Latent's frames."),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="hold",
                    tooltip="hold: a prompt stays until the next keyframe. linear: an even change from keyframe to "
                    "keyframe. smooth: the same with a gentle start and end. slerp: an even rotation of each embedding "
                    "vector, which keeps its length on the way.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=16384,
                        optional=True,
                        tooltip=f"{side.capitalize()} of the picture in SDXL's size conditioning, in pixels. 0 is the "
                        "latent's own; set both or neither.",
                    )
                    for side in ("width", "height")
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="0: prompts change at any frame. Set to the segment_frames of Segment Chain: prompts "
                    "change only where a segment begins, and a segment keeps the prompt of its first new frame.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="With segment_frames: the overlap of Segment Chain (0 if its carry is last_frame), so that "
                    "both count the same segments. Not used otherwise.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="Conditioning with one row a frame, for samplers, ControlNets and conditioning nodes.",
                )
            ],
        )

    @named_classmethod
    def execute(
        cls, clip, prompts, frames, interpolation, width=0, height=0, segment_frames=0, overlap=4
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.conditioning.prompts import schedule_conditioning

        if clip is None:
            raise ValueError("clip is empty: the checkpoint holds no text encoders; load them with their own node")
        keyframes = parse_schedule(prompts, frames)
        mixes = mix_keyframes(keyframes, frames, interpolation, segment_frames, overlap)
        return io.NodeOutput(schedule_conditioning(clip, keyframes, mixes, interpolation, (width, height)))
