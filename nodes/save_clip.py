"""Save a clip as mp4 that carries its graph, with its frames as PNGs where wanted."""

from __future__ import annotations

from ._api import io
from ._clip_file import clip_hidden, clip_inputs, clip_outputs, save_clip

NODE = "SAV_SaveClip"


class SaveClip(io.ComfyNode):
    """Pictures to an H.264 mp4 in ComfyUI's output folder; dropped on the page the file brings its graph back."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Save Clip",
            category="SDXL Anime Video/video",
            description="Saves pictures as an mp4 that carries its graph: drop the file on the page to load it again.",
            inputs=[
                io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped."),
                *clip_inputs(),
            ],
            outputs=clip_outputs(),
            hidden=clip_hidden(),
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images, fps=12.0, filename_prefix="video/clip", crf=16, save_frames=False, audio=None
    ) -> io.NodeOutput:
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one frame [F, H, W, 3]")
        return save_clip(
            NODE,
            cls.hidden,
            images,
            images.shape[:3],
            fps=fps,
            filename_prefix=filename_prefix,
            crf=crf,
            save_frames=save_frames,
            audio=audio,
        )
