"""A clip at another frame rate: motion compensation computes the frames between its frames."""

from ._api import io
from ._shared import check_pictures, fps_input, images_input, named_classmethod


class InterpolateFrames(io.ComfyNode):
    """Brings a clip to another rate, such as 12 fps to 24; its own frames stay unchanged."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_InterpolateFrames",
            display_name="Interpolate Frames",
            category="SDXL Anime Video/video",
            description="Brings a clip to another frame rate. The new frames follow the motion; no model is needed. A "
            "lower rate drops frames.",
            inputs=[
                images_input(),
                fps_input("fps_in", 12.0, "Frames per second of the given clip."),
                fps_input(
                    "fps_out",
                    24.0,
                    "Frames per second of the new clip. Twice fps_in turns F frames into 2F - 1; the same rate changes "
                    "nothing; a lower one drops frames.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "interpolated", display_name="images", tooltip="The clip at the new rate, first frame to last."
                ),
                io.Float.Output("fps", display_name="fps", tooltip="The new rate, for the node that saves the clip."),
            ],
        )

    @named_classmethod
    def execute(cls, images, fps_in=12.0, fps_out=24.0) -> io.NodeOutput:
        from ..temporal.hosts.comfy.pictures.interpolate import at_rate

        check_pictures(images)
        return io.NodeOutput(at_rate(images[..., :3], fps_in, fps_out), float(fps_out))
