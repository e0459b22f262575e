"""Images of a batch on one sheet."""

import torch

from ._api import io
from ._shared import check_pictures, named_classmethod


class ImageGrid(io.ComfyNode):
    """Puts the images of a batch side by side, with labels."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ImageGrid",
            display_name="Image Grid",
            category="SDXL Anime Video/image",
            description="Puts the images of a batch side by side on one sheet, each with its own label: to compare "
            "seeds, prompts or settings, or the frames of a clip.",
            inputs=[
                io.Image.Input("images", tooltip="The images in order, one batch. Alpha is dropped."),
                io.Int.Input(
                    "columns", default=0, min=0, max=1024, tooltip="Images in a row. 0: about as many rows as columns."
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One line for each image, written above it; an empty line for no label. Empty: no labels.",
                ),
            ],
            outputs=[io.Image.Output("grid", display_name="image", tooltip="The sheet, one image.")],
        )

    @named_classmethod
    def execute(cls, images, columns, labels) -> io.NodeOutput:
        from ..media.sheets import image_grid

        check_pictures(images)
        sheet = image_grid(images.float().cpu().numpy(), columns, labels.rstrip().splitlines())
        return io.NodeOutput(torch.from_numpy(sheet)[None])
