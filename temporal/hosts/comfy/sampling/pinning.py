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

    Core inpaints where a `denoise_mask` is 1 and holds the latent image, noised to the step's level, where it is 0.
    A pinned frame is one whose mask is scaled by 1 - strength while its range of the schedule lasts; a mask that the
    latent came with goes on ruling the other frames.
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
        """No pins, for a piece of a clip that `take` adds to."""
        return cls((), torch.Size(), in_range)

    def take(self, rows: slice, finished: torch.Tensor) -> PinnedFrames:
        """The pins of one segment: those in its frames `rows`, and its first frames held at latents that are finished,
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
        """Bool [F]: frames held exactly at this noise level."""
        held = torch.zeros(frames, dtype=torch.bool)
        for pin, rows, _ in self._placed:
            if pin.strength == 1 and self._in_range(pin, sigma):
                held[rows] = True
        return held

    def put_latents(self, latent_image: torch.Tensor) -> torch.Tensor:
        """The latent image `[F, C, h, w]` with the given latents in their places; the input stays as it is."""
        filled = latent_image.clone()
        for _, rows, latents in self._placed:
            filled[rows] = latents.to(filled)
        return filled

    def put_noise(self, noise: torch.Tensor, seed: int, start: int = 0) -> torch.Tensor:
        """Noise for holding pinned frames at a step's level when the sampler adds none (the second of two stages).

        start: the first frame's place in the clip. The other frames' noise stays zero. Without this the model would be
        shown clean frames as noisy ones.
        """
        if torch.count_nonzero(noise) > 0:
            return noise
        filled = noise.clone()
        for _, rows, _ in self._placed:
            for row in rows:
                filled[row] = torch.randn(noise.shape[1:], generator=generator_for(seed, "pinned", start + row)).to(
                    noise
                )
        return filled

    def put_exact(self, samples: torch.Tensor) -> torch.Tensor:
        """The finished clip with the given latents in their places, free of the sampler's rounding."""
        finished = samples.clone()
        for pin, rows, latents in self._placed:
            if pin.strength == 1 and self._in_range(pin, 0.0):
                finished[rows] = latents.to(finished)
        return finished

    def mask(self, clip_mask: torch.Tensor, sigma: float) -> torch.Tensor:
        """Denoise mask `[F, 1, h, w]` at a noise level, out of the clip's own mask."""
        keep = torch.ones(len(clip_mask))
        for pin, rows, _ in self._placed:
            if self._in_range(pin, sigma):
                keep[rows] = 1.0 - pin.strength
        return clip_mask * keep.to(clip_mask)[:, None, None, None]

    def mask_function(self, clip_mask: torch.Tensor, previous: Callable | None) -> Callable[..., torch.Tensor]:
        """A `denoise_mask_function` for core; `previous` (differential diffusion, say) still rules the clip's mask."""

        def at_step(sigma: torch.Tensor, denoise_mask: torch.Tensor, extra_options: dict[str, Any], **kwargs: Any):
            own = clip_mask if previous is None else previous(sigma, clip_mask, extra_options=extra_options, **kwargs)
            return self.mask(own, float(sigma.max()))

        return at_step


def clip_mask(denoise_mask: torch.Tensor | None, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """A latent's mask as `[F, 1, h, w]` on the sampling device; all ones if it has none.

    Some core versions hand the mask to wrappers as the user gave it and expand it later, others have expanded it to
    all channels already. One channel suits both, for expanding it once more changes nothing.
    """
    if denoise_mask is None:
        return torch.ones(shape[0], 1, *shape[2:], device=device)
    expanded = denoise_mask.shape == shape
    mask = denoise_mask if expanded else comfy.sampler_helpers.prepare_mask(denoise_mask, shape, device)
    return mask[:, :1].to(device=device, dtype=torch.float32)


def _place(pin: Pin, shape: torch.Size) -> tuple[list[int], torch.Tensor]:
    """Frame numbers and latents `[rows, C, h, w]` of one pin in a clip of `shape`."""
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
