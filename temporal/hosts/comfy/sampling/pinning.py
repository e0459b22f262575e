"""Pinned frames: given latents that core's inpainting holds while the other frames are sampled around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sampler_helpers
import torch

from ....clip.contract import Pin
from ....clip.frames import Places
from ....clip.noise import generator_for


class PinnedFrames:
    """The pins of a contract laid out on one clip.

    Core inpaints where a `denoise_mask` is 1, and holds the latent image, noised to the step's level, where it is 0.
    The mask of a pinned frame is scaled by 1 - strength within the pin's range of the schedule; elsewhere the latent's
    own mask applies.
    """

    def __init__(self, pins: tuple[Pin, ...], shape: torch.Size, in_range: Callable[[Pin, float], bool]):
        """shape: the clip's, `[F, C, h, w]`. Raises ValueError for pins that do not fit it."""
        self._in_range = in_range
        self._placed: list[tuple[Pin, list[int], torch.Tensor]] = []
        taken: set[int] = set()
        for pin in pins:
            rows, latents = _place(pin, shape)
            if twice := sorted(taken & set(rows)):
                raise ValueError(f"two nodes pin frame(s) {twice}; give each frame to one of them")
            taken |= set(rows)
            self._placed.append((pin, rows, latents))

    @classmethod
    def none(cls, in_range: Callable[[Pin, float], bool]) -> PinnedFrames:
        """Return an object without pins, for `take` to add to."""
        return cls((), torch.Size(), in_range)

    def take(self, rows: slice, finished: torch.Tensor) -> PinnedFrames:
        """Return the pins of one segment: those in its frames `rows`, and its first frames held at the finished latents
        `[K, C, h, w]` (K may be 0)."""
        piece = PinnedFrames.none(self._in_range)
        first_new = rows.start + len(finished)
        for pin, places, latents in self._placed:
            inside = [i for i, row in enumerate(places) if first_new <= row < rows.stop]
            if inside:
                piece._placed.append((pin, [places[i] - rows.start for i in inside], latents[inside]))
        if len(finished):
            piece._placed.append((Pin(finished, Places(1)), list(range(len(finished))), finished))
        return piece

    def __bool__(self) -> bool:
        return bool(self._placed)

    def held(self, sigma: float, frames: int) -> torch.Tensor:
        """Return the frames that are held exactly at this noise level, bool `[F]`."""
        held = torch.zeros(frames, dtype=torch.bool)
        for pin, rows, _ in self._placed:
            if pin.strength == 1 and self._in_range(pin, sigma):
                held[rows] = True
        return held

    def put_latents(self, latent_image: torch.Tensor) -> torch.Tensor:
        """Return a copy of the latent image `[F, C, h, w]` with the given latents in their places."""
        filled = latent_image.clone()
        for _, rows, latents in self._placed:
            filled[rows] = latents.to(filled)
        return filled

    def put_noise(self, noise: torch.Tensor, seed: int, start: int = 0) -> torch.Tensor:
        """Return noise for pinned frames if the sampler adds none, as the second of two samplers does.

        Without it the model would see clean pinned frames at a noisy level. The other frames' noise stays zero.
        start: the first frame's place in the clip.
        """
        if torch.count_nonzero(noise) > 0:
            return noise
        filled = noise.clone()
        for _, rows, _ in self._placed:
            for row in rows:
                generator = generator_for(seed, "pinned", start + row)
                filled[row] = torch.randn(noise.shape[1:], generator=generator).to(noise)
        return filled

    def put_exact(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the finished clip with the given latents in their places, free of the sampler's rounding."""
        finished = samples.clone()
        for pin, rows, latents in self._placed:
            if pin.strength == 1 and self._in_range(pin, 0.0):
                finished[rows] = latents.to(finished)
        return finished

    def mask(self, clip_mask: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the denoise mask `[F, 1, h, w]` at a noise level, from the clip's own mask."""
        keep = torch.ones(len(clip_mask))
        for pin, rows, _ in self._placed:
            if self._in_range(pin, sigma):
                keep[rows] = 1.0 - pin.strength
        return clip_mask * keep.to(clip_mask)[:, None, None, None]

    def mask_function(self, clip_mask: torch.Tensor, previous: Callable | None) -> Callable[..., torch.Tensor]:
        """Return a `denoise_mask_function` for core; `previous`, such as differential diffusion, edits the own mask."""

        def at_step(sigma: torch.Tensor, denoise_mask: torch.Tensor, extra_options: dict[str, Any], **kwargs: Any):
            own = clip_mask if previous is None else previous(sigma, clip_mask, extra_options=extra_options, **kwargs)
            return self.mask(own, float(sigma.max()))

        return at_step


def clip_mask(denoise_mask: torch.Tensor | None, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Return a latent's mask as `[F, 1, h, w]` on the sampling device; all ones if it has none.

    Some versions of core pass the user's mask to wrappers and expand it later, others have expanded it to all channels
    before. One channel suits both, because expanding it again changes nothing.
    """
    if denoise_mask is None:
        return torch.ones(shape[0], 1, *shape[2:], device=device)
    expanded = denoise_mask.shape == shape
    mask = denoise_mask if expanded else comfy.sampler_helpers.prepare_mask(denoise_mask, shape, device)
    return mask[:, :1].to(device=device, dtype=torch.float32)


def _place(pin: Pin, shape: torch.Size) -> tuple[list[int], torch.Tensor]:
    """Return frame numbers and latents `[rows, C, h, w]` of one pin in a clip of `shape`."""
    frames, given = shape[0], len(pin.latent)
    if pin.latent.shape[1:] != shape[1:]:
        raise ValueError(
            f"the given latent is {_size(pin.latent.shape)} but the clip is {_size(shape)}; encode the image at "
            "the clip's size"
        )
    rows = pin.places.rows(frames)
    if given == frames and len(rows) <= frames and not (pin.places.listed and len(rows) == given):
        return rows, pin.latent[rows]
    if pin.places.listed and len(rows) != given:
        raise ValueError(
            f"{len(rows)} positions for {given} given latent(s); give as many positions as latents, or a latent "
            f"of the whole clip ({frames} frames)"
        )
    if given > len(rows):
        raise ValueError(
            f"the given latent has {given} frames, but every {pin.places.every} frames of a clip of {frames} "
            f"there is room for {len(rows)}; lower `every` or list the positions"
        )
    return rows[:given], pin.latent


def _size(shape: torch.Size) -> str:
    return f"{shape[1]} channels of {shape[3]}x{shape[2]} ({shape[3] * 8}x{shape[2] * 8} px)"
