"""Save a clip, from pictures or straight from latents, as mp4 that carries its graph."""

from typing import Any

from ._api import InputImpl, io, ui
from ._shared import check_pictures, fps_input, images_input, named_classmethod


class SaveClip(io.ComfyNode):
    """Saves pictures as an H.264 mp4 in ComfyUI's output folder; dropped on the page, the file restores its graph."""

    @classmethod
    def define_schema(cls):
        return clip_schema(
            node_id="SAV_SaveClip",
            display_name="Save Clip",
            description="Saves pictures as an mp4 that carries its graph: drop the file on the page to load it again.",
            inputs=[images_input()],
        )

    @named_classmethod
    def execute(
        cls, images, fps=12.0, filename_prefix="video/clip", crf=16, save_frames=False, audio=None
    ) -> io.NodeOutput:
        check_pictures(images)
        return saved(cls.hidden, images, images.shape[:3], fps, filename_prefix, crf, save_frames, audio)


class DecodeAndSaveClip(io.ComfyNode):
    """Decodes latents and saves the clip, with only a few pictures in memory at once."""

    @classmethod
    def define_schema(cls):
        return clip_schema(
            node_id="SAV_DecodeAndSaveClip",
            display_name="Decode and Save Clip",
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

    @named_classmethod
    def execute(
        cls, samples, vae, tile_size=0, fps=12.0, filename_prefix="video/clip", crf=16, save_frames=False, audio=None
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.pictures.decode import clip_latents, decode_frames, picture_size

        latents = clip_latents(samples, vae)
        frames, size = decode_frames(vae, latents, tile_size), (len(latents), *picture_size(vae, latents))
        return saved(cls.hidden, frames, size, fps, filename_prefix, crf, save_frames, audio)


def clip_schema(*, inputs: list, **identity: Any) -> io.Schema:
    """Return the schema of a node that saves a clip. inputs: those before rate, name, quality, stills and sound."""
    return io.Schema(
        category="SDXL Anime Video/video",
        inputs=[
            *inputs,
            fps_input(
                "fps", 12.0, "Frames per second, kept exactly; 23.976 means 24000/1001. Anime is drawn at 8 to 12."
            ),
            io.String.Input(
                "filename_prefix",
                default="video/clip",
                tooltip="Start of the file name, below ComfyUI's output folder; may name subfolders and use "
                "%year%, %month%, %day%, %width%, %height%. A number is added.",
            ),
            io.Int.Input(
                "crf",
                default=16,
                min=0,
                max=51,
                tooltip="H.264 quality: 16 is visually lossless, 23 is small; each 6 more halve the file. 0 is "
                "lossless, but browsers cannot play it.",
            ),
            io.Boolean.Input(
                "save_frames",
                default=False,
                tooltip="Also save every frame as PNG, in a folder beside the clip, and a JSON file with the settings.",
            ),
            io.Audio.Input("audio", optional=True, tooltip="Sound of the clip (AAC), cut at its end."),
        ],
        outputs=[io.Video.Output(display_name="video", tooltip="The saved file, for nodes that take a video.")],
        hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        is_output_node=True,
        **identity,
    )


def saved(*clip: Any) -> io.NodeOutput:
    """Save a clip, see `pictures.saving.save_clip`; return the node's output, with a preview."""
    from ..temporal.hosts.comfy.pictures.saving import save_clip

    target, subfolder = save_clip(*clip)
    preview = ui.PreviewVideo([ui.SavedResult(target.name, subfolder, io.FolderType.output)])
    return io.NodeOutput(InputImpl.VideoFromFile(str(target)), ui=preview)
