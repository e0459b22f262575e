"""Images of a batch on one sheet."""

from __future__ import annotations

from ._api import io

NODE = "SAV_ImageGrid"


class ImageGrid(io.ComfyNode):
    """Puts the images of a batch side by side, with labels."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Image Grid",
            category="SDXL Anime Video/image",
            description="Puts the images of a batch side by side on one sheet, each under a label of its own: to "
            "compare seeds, prompts or settings, or the frames of a clip.",
            inputs=[
                io.Image.Input("images", tooltip="The images in order, one batch. Alpha is dropped."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Images in a row. 0: as many rows as columns, or nearly.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One line an image, written above it; an empty line for none. Empty: no labels.",
                ),
            ],
            outputs=[io.Image.Output("grid", display_name="image", tooltip="The sheet, one image.")],
        )

    @classmethod
    def execute(cls, images, columns: int, labels: str) -> io.NodeOutput:
        import torch

        from ..media.sheets import image_grid

        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one image [N, H, W, 3]")
        try:
            sheet = image_grid(images.float().cpu().numpy(), columns, labels.rstrip().splitlines())
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        return io.NodeOutput(torch.from_numpy(sheet)[None])
