"""Captions into SDXL's text conditioning, token for token as ComfyUI's CLIPTextEncode makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

LENGTH = 77
"""Tokens that a text encoder sees, begin and end included."""


class TextEncoders:
    """SDXL's two CLIP encoders, with transformers' modules.

    Both see the same words; they differ in what fills up to 77 tokens. A tokenizer of its own for the second would take
    its filling, "!", for a special token inside a caption, too, which is not how the encoder was trained.
    """

    def __init__(self, tokenizer: Any, encoders: Sequence[Any], fillings: Sequence[int]):
        """fillings: the token id that pads for each encoder."""
        self.tokenizer, self.encoders, self.fillings = tokenizer, encoders, fillings

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of a token that come from each encoder."""
        return tuple(encoder.config.hidden_size for encoder in self.encoders)

    def count(self, caption: str) -> int:
        """Tokens of a caption, begin and end included; what is beyond 77 is cut off."""
        return len(self.tokenizer(caption).input_ids)

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `[N, 77, C]`, the encoders' last but one layers side by side, and the second's pooled `[N, P]`."""
        cut = self.tokenizer(captions, truncation=True, max_length=LENGTH).input_ids
        hidden, pooled = [], torch.empty(0)
        for encoder, filling in zip(self.encoders, self.fillings, strict=True):
            rows = [ids + [filling] * (LENGTH - len(ids)) for ids in cut]
            output = encoder(torch.tensor(rows, device=encoder.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]  # of the second: the projection, which transformers calls text_embeds
        return torch.cat(hidden, dim=-1), pooled
