"""Encode captions into the cache."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ...temporal.hosts.diffusers.base import Base
from ..clips.manifest import Row, Texts, text_key
from ..clips.store import Store

_AT_ONCE = 32  # captions encoded at once


def add_texts(
    cache: Path, store: Store, rows: list[Row], base: Base, sizes: dict[str, Any], progress: Callable[[int, int], None]
) -> None:
    """Encode new captions of kept clips; copy embeddings that came with .npz clips.

    A clip with embeddings of another size than the model's is dropped. One without a pooled embedding gets that of its
    caption.
    """
    texts = Texts(cache)
    there = texts.rows()
    kept = [row for row in rows if not row["reason"]]
    own = {}
    for row in kept:
        if not row["look"]:  # of an .npz clip
            tokens, pooled = store.take(row["row"], ["tokens", "pooled"]).values()
            expected = 2 * sizes["tokens"][0] * sizes["tokens"][1]
            if tokens and (len(tokens) != expected or len(pooled) not in (0, 2 * sizes["pooled"])):
                row["reason"] = f"text: embeddings of another model ({len(tokens) // 2} values, not {expected // 2})"
            elif tokens:
                row["own_text"] = True
                own[text_key(row)] = (row["caption"], tokens, pooled)
    captions = sorted({row["caption"] for row in kept if not row["reason"] and not row.get("own_text")} - {"", *there})
    todo = iter(([] if "" in there else [""]) + captions)
    count, total = 0, len(captions) + ("" not in there)
    while some := list(islice(todo, _AT_ONCE)):
        texts.add(zip(some, *_encoded(base, some), strict=True))
        count += len(some)
        progress(count, total)
    for key, (caption, tokens, pooled) in own.items():
        if key not in there:
            texts.add([(key, tokens, pooled or _encoded(base, [caption])[1][0])])


def _encoded(base: Base, captions: list[str]) -> tuple[list[bytes], list[bytes]]:
    tokens, pooled = base.encode_text(captions)
    return tuple([row.half().cpu().numpy().tobytes() for row in part] for part in (tokens, pooled))  # type: ignore
