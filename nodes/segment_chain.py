"""Long clips, segment after segment."""

from ..temporal.clip.contract import Chain
from ..temporal.clip.segments import CARRIES
from ..temporal.hosts.comfy.resume.finished import check_resume_id
from ..temporal.hosts.comfy.sampling.wrapper import record
from ._api import io
from ._shared import check_at_least, check_choice, named_classmethod, patched_model


class SegmentChain(io.ComfyNode):
    """Records a chain of segments on a MODEL: any sampler then makes a long clip piece by piece."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_SegmentChain",
            display_name="Segment Chain",
            category="SDXL Anime Video/long clips",
            description="Samples a long clip in segments, one after another; each continues from the end of the one "
            "before. Needs no more memory than one segment.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model, usually with a temporal adapter."),
                io.Int.Input(
                    "segment_frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames sampled at once: at most as many as the temporal adapter was trained on.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4095,
                    tooltip="carry overlap only: the last frames of a segment from which the next one continues. Must "
                    "be below segment_frames.",
                ),
                io.Combo.Input(
                    "carry",
                    options=list(CARRIES),
                    default="overlap",
                    tooltip="overlap: the next segment sees the last frames of this one while it is sampled. "
                    "last_frame: it starts from the last frame, noised to carry_denoise.",
                ),
                io.Float.Input(
                    "carry_denoise",
                    default=0.8,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="carry last_frame only: the part of the noise schedule that later segments go through. "
                    "Low stays close to the frame they start from, 1 forgets it.",
                ),
                io.String.Input(
                    "resume_id",
                    default="",
                    optional=True,
                    tooltip="A name such as my-clip-1. Finished segments are kept on disk under this name, and the "
                    "same graph queued again after a crash continues where it stopped. Empty: nothing is kept.",
                ),
            ],
            outputs=patched_model("that samples in segments"),
        )

    @named_classmethod
    def execute(cls, model, segment_frames, overlap, carry, carry_denoise, resume_id="") -> io.NodeOutput:
        check_choice("carry", carry, CARRIES)
        check_at_least("segment_frames", segment_frames, 1)
        if carry == "overlap" and not 0 <= overlap < segment_frames:
            raise ValueError(
                f"overlap {overlap} leaves no new frames in segments of {segment_frames}; it must be at least 0 and "
                "below segment_frames"
            )
        if not 0 < carry_denoise <= 1:
            raise ValueError(f"carry_denoise is {carry_denoise:g}; it must lie above 0 and at most at 1")
        resume_id = resume_id.strip()
        if resume_id:
            check_resume_id(resume_id)
        chain = Chain(segment_frames, overlap, carry, carry_denoise, resume_id)
        return io.NodeOutput(record(model, lambda contract: contract.with_chain(chain)))
