"""SDXL Anime Video: a ComfyUI node pack that turns SDXL 1.0 into an anime video model."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI; returns the pack's `ComfyExtension`."""
    from .nodes import SDXLAnimeVideo

    return SDXLAnimeVideo()
