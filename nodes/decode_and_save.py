"""Decode latents straight into a saved clip, a few frames at a time."""

from __future__ import annotations

from ._api import io
from ._clip_file import clip_hidden, clip_inputs, clip_outputs, save_clip

NODE = "SAV_DecodeAndSaveClip"


class DecodeAndSaveClip(io.ComfyNode):
    """VAE decoding and Save Clip in one, so that no more than a few pictures are in memory at once."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Decode and Save Clip",
            category="SDXL Anime Video/video",
            description="Decodes latents and saves them as an mp4 that carries its graph. Memory does not grow with "
            "the number of frames.",
            inputs=[
                io.Latent.Input("samples", tooltip="The frames in order, as the sampler gives them."),
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
                *clip_inputs(),
            ],
            outputs=clip_outputs(),
            hidden=clip_hidden(),
            is_output_node=True,
        )

    @classmethod
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
        from ..temporal.hosts.comfy.decode import clip_latents, decode_frames, picture_size

        latents = clip_latents(samples, vae, NODE)
        return save_clip(
            NODE,
            cls.hidden,
            decode_frames(vae, latents, tile_size),
            (len(latents), *picture_size(vae, latents)),
            fps=fps,
            filename_prefix=filename_prefix,
            crf=crf,
            save_frames=save_frames,
            audio=audio,
        )
