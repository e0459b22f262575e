"""Captions into SDXL's text conditioning, token for token as ComfyUI's CLIPTextEncode makes it."""

import re
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import torch

Text = tuple[torch.Tensor, torch.Tensor]
LENGTH = 77
"""Tokens that a text encoder sees, begin and end included."""
LONG_WORD = 8
"""Tokens from which a word may be cut at the end of a chunk."""


def plain_prompt(prompt: str, name: str) -> str:
    """A prompt as it is encoded, with ComfyUI's `\\(` and `\\)` as the brackets that they stand for.

    Raises ValueError, starting with `name`, for ComfyUI's weights and embeddings, which are not known here.
    """
    bare = prompt.replace("\\(", "").replace("\\)", "")
    if found := re.search(r"[()]|embedding:\S+", bare):
        raise ValueError(
            f"{name}: {found[0]!r} in {shorten(prompt, 60)!r} would be a weight or an embedding in ComfyUI, and there "
            "are none here; leave it out, or write \\( and \\) for brackets"
        )
    return prompt.replace("\\(", "(").replace("\\)", ")")


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

    def __call__(self, captions: list[str]) -> Text:
        """Tokens `[N, 77, C]`, the encoders' last but one layers side by side, and the second's pooled `[N, P]`.

        What is beyond 77 tokens is cut off.
        """
        return self._encode(self.tokenizer(captions, truncation=True, max_length=LENGTH).input_ids)

    def whole(self, prompt: str) -> Text:
        """A prompt of any length in chunks of 77: tokens `[1, 77 k, C]` and the first chunk's pooled `[1, P]`."""
        tokens, pooled = self._encode(self.chunks(prompt))
        return tokens.flatten(0, 1)[None], pooled[:1]

    def chunks(self, prompt: str) -> list[list[int]]:
        """Token ids, begin and end included and unfilled, of pieces that end between words; only words of eight tokens
        and more are cut."""
        first, *_, last = self.tokenizer("").input_ids
        chunks = [[first]]
        for word in prompt.split(" "):
            ids = self.tokenizer(word).input_ids[1:-1]
            cut = len(ids) >= LONG_WORD
            while len(ids) > (room := LENGTH - 1 - len(chunks[-1])):
                if cut:
                    chunks[-1] += ids[:room]
                    ids = ids[room:]
                chunks.append([first])
            chunks[-1] += ids
        return [[*chunk, last] for chunk in chunks]

    @torch.no_grad()
    def _encode(self, chunks: list[list[int]]) -> Text:
        hidden, pooled = [], torch.empty(0)
        for encoder, filling in zip(self.encoders, self.fillings, strict=True):
            rows = [ids + [filling] * (LENGTH - len(ids)) for ids in chunks]
            output = encoder(torch.tensor(rows, device=encoder.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]  # of the second: the projection, which transformers calls text_embeds
        return torch.cat(hidden, dim=-1), pooled
