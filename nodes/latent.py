"""The empty clip that sampling starts from."""

from __future__ import annotations

import comfy.model_management
import torch

from ._api import io


class EmptyVideoLatent(io.ComfyNode):
    """One empty SDXL latent per frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_EmptyVideoLatent",
            display_name="Empty Video Latent",
            category="SDXL Anime Video/latent",
            description="An empty clip to sample: one SDXL latent per frame, the frames lying in the batch.",
            inputs=[
                io.Int.Input(
                    "width",
                    default=768,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width of the frames in pixels. 768 to 1024 suit SDXL; multiples of 64 are safest.",
                ),
                io.Int.Input(
                    "height",
                    default=768,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Height of the frames in pixels. 768 to 1024 suit SDXL; multiples of 64 are safest.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames in the clip: seconds times frames per second, so 96 for 8 s at 12 fps. More than "
                    "the temporal adapter was trained on (often 16) want Segment Chain or Context Windows.",
                ),
            ],
            outputs=[
                io.Latent.Output("clip_latent", display_name="latent", tooltip="The empty clip, for a sampler."),
                io.Int.Output(
                    "frame_count", display_name="frames", tooltip="The same frame count, for other nodes that need it."
                ),
            ],
        )

    @classmethod
    def execute(cls, width: int, height: int, frames: int) -> io.NodeOutput:
        for name, value in (("width", width), ("height", height)):
            if not 64 <= value <= 4096 or value % 8:
                raise ValueError(f"SAV_EmptyVideoLatent: {name} is {value}; it must be a multiple of 8 from 64 to 4096")
        if not 1 <= frames <= 4096:
            raise ValueError(f"SAV_EmptyVideoLatent: frames is {frames}; a clip has 1 to 4096 frames")
        samples = torch.zeros(frames, 4, height // 8, width // 8, device=comfy.model_management.intermediate_device())
        # Newer samplers read how many pixels an empty latent's value spans; older ones ignore the key.
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": 8}, frames)
