"""Decode latents straight into a saved clip, a few frames at a time."""

from __future__ import annotations

from ..temporal.hosts.comfy.errors import at_node
from ._api import io
from .save_clip import clip_schema, saved

NODE = "Decode and Save Clip"


class DecodeAndSaveClip(io.ComfyNode):
    """Decodes latents and saves the clip, with only a few pictures in memory at once."""

    @classmethod
    def define_schema(cls):
        return clip_schema(
            node_id="SAV_DecodeAndSaveClip",
            display_name=NODE,
            description="Decodes latents and saves them as an mp4 that carries its graph. Memory does not grow with "
            "the number of frames.",
            inputs=[
                io.Latent.Input("samples", tooltip="The frames in order, from the sampler."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=4096,
                    step=32,
                    tooltip="Side of a tile in pixels, 64 or more. 0 decodes frames of up to 768x768 pixels whole and "
                    "larger ones in tiles of 512. As large as the frame: always whole.",
                ),
            ],
        )

    @classmethod
    @at_node(NODE)
    def execute(
        cls,
        samples,
        vae,
        tile_size=0,
        fps=12.0,
        filename_prefix="video/clip",
        crf=16,
        save_frames=False,
        audio=None,
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.pictures.decode import clip_latents, decode_frames, picture_size

        latents = clip_latents(samples, vae)
        frames, size = decode_frames(vae, latents, tile_size), (len(latents), *picture_size(vae, latents))
        return saved(cls.hidden, frames, size, fps, filename_prefix, crf, save_frames, audio)
