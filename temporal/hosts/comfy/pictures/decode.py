"""Decoding latents a few frames at a time, so that a clip of any length needs the memory of a short one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
from einops import rearrange
from torch import Tensor

# One picture of a megapixel keeps a decoder busy; more at once cost memory and save no time. Small frames go together.
PIXELS_AT_ONCE = 1024 * 1024
FRAMES_AT_ONCE = 16
# Above this size the decoder needs more memory than many cards have, so pictures are decoded in tiles.
PIXELS_UNTILED = 768 * 768
TILE, TILE_OVERLAP, SMALLEST_TILE = 512, 64, 64


def clip_latents(samples: dict[str, Any], vae) -> Tensor:
    """Return the frames `[F, C, h, w]` of a LATENT; a video latent `[B, C, T, h, w]` gives one clip after the other.

    Masks and batch indices of the LATENT mean nothing to a decoder and are ignored.

    Raises ValueError for a LATENT that is not a clip and for a VAE that does not fit it.
    """
    if vae is None:
        raise ValueError("vae is empty: the checkpoint holds none; load one with Load VAE")
    if vae.latent_dim != 2:
        raise ValueError(
            "this VAE decodes no single pictures; give SDXL's, or decode with ComfyUI's own node and save with "
            "Save Clip"
        )
    latents = samples["samples"]
    if latents.is_nested:
        raise ValueError("samples holds several latents (picture and sound, say); separate them first")
    if latents.ndim == 5:
        latents = rearrange(latents, "b c t h w -> (b t) c h w")
    if latents.ndim != 4 or 0 in latents.shape:
        raise ValueError(f"samples has shape {list(samples['samples'].shape)}; give at least one frame [F, 4, h, w]")
    if latents.shape[1] != vae.latent_channels:
        raise ValueError(
            f"samples has {latents.shape[1]} channels but the VAE decodes {vae.latent_channels}; use the VAE "
            "that belongs to the model"
        )
    return latents


def picture_size(vae, latents: Tensor) -> tuple[int, int]:
    """Return the height and width in pixels of the pictures that `decode_frames` gives."""
    ratio = vae.spacial_compression_decode()
    return latents.shape[2] * ratio, latents.shape[3] * ratio


def plan(height: int, width: int, tile_size: int = 0) -> tuple[int, int]:
    """Return how many pictures of this size to decode at once, and the side of a tile in pixels, 0 for whole pictures.

    The length of the clip does not matter. Raises ValueError for a tile below 64 px.
    """
    if tile_size and tile_size < SMALLEST_TILE:
        raise ValueError(f"tile_size is {tile_size}; it must be {SMALLEST_TILE} or more, or 0 for automatic")
    at_once = max(1, min(FRAMES_AT_ONCE, PIXELS_AT_ONCE // (height * width)))
    tile = tile_size or (TILE if height * width > PIXELS_UNTILED else 0)
    return at_once, tile if tile < max(height, width) else 0


def decode_frames(vae, latents: Tensor, tile_size: int = 0) -> Iterator[Tensor]:
    """Yield the pictures `[H, W, 3]`, 0..1, of latents `[F, C, h, w]`; only a few are in memory at a time.

    tile_size: side of a tile in pixels. 0: whole pictures up to `PIXELS_UNTILED`, tiles of 512 above it. Pictures no
    larger than a tile are decoded whole. Tiles overlap as in ComfyUI's own tiled decoding and equal it.

    An interrupt takes effect between pieces and between tiles. Raises ValueError as `plan` does.
    """
    at_once, tile = plan(*picture_size(vae, latents), tile_size)
    for piece in latents.split(at_once):
        comfy.model_management.throw_exception_if_processing_interrupted()
        with _tiles_unseen():
            pictures = _decode(vae, piece, tile)
        yield from pictures


def _decode(vae, latents: Tensor, tile: int) -> Tensor:
    if not tile:
        return vae.decode(latents)
    ratio = vae.spacial_compression_decode()
    overlap = min(TILE_OVERLAP, tile // 4)
    return vae.decode_tiled(latents, tile_x=tile // ratio, tile_y=tile // ratio, overlap=overlap // ratio)


@contextmanager
def _tiles_unseen() -> Iterator[None]:
    """Hide the progress bar of core's tiled decoding, because the clip's own bar would jump back and forth.

    The hidden bar still notices an interrupt.
    """
    shown = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(
        lambda *_, **__: comfy.model_management.throw_exception_if_processing_interrupted()
    )
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(shown)
