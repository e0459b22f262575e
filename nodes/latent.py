"""The empty clip that sampling starts from."""

import comfy.model_management
import torch

from ._api import io
from ._shared import check_between, frames_input, named_classmethod

SIDES = ("width", "height")


class EmptyVideoLatent(io.ComfyNode):
    """Makes one empty SDXL latent per frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_EmptyVideoLatent",
            display_name="Empty Video Latent",
            category="SDXL Anime Video/latent",
            description="An empty clip to sample: one SDXL latent per frame; the batch holds the frames.",
            inputs=[
                *(
                    io.Int.Input(
                        side,
                        default=768,
                        min=64,
                        max=4096,
                        step=8,
                        tooltip=f"{side.capitalize()} of the frames in pixels. 768 to 1024 suit SDXL; multiples of 64 "
                        "are safest.",
                    )
                    for side in SIDES
                ),
                frames_input(
                    "Frames in the clip: seconds times frames per second, so 96 for 8 s at 12 fps. More than the "
                    "temporal adapter was trained on (often 16) need Segment Chain or Context Windows."
                ),
            ],
            outputs=[
                io.Latent.Output("clip_latent", display_name="latent", tooltip="The empty clip, for a sampler."),
                io.Int.Output(
                    "frame_count", display_name="frames", tooltip="The same frame count, for other nodes that need it."
                ),
            ],
        )

    @named_classmethod
    def execute(cls, width, height, frames) -> io.NodeOutput:
        for name, value in zip(SIDES, (width, height), strict=True):
            if not 64 <= value <= 4096 or value % 8:
                raise ValueError(f"{name} is {value}; it must be a multiple of 8 from 64 to 4096")
        check_between("frames", frames, 1, 4096)
        samples = torch.zeros(frames, 4, height // 8, width // 8, device=comfy.model_management.intermediate_device())
        # Newer samplers read how many pixels an empty latent's value spans; older ones ignore the key.
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": 8}, frames)
