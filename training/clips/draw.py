"""Draw batches from clips."""

from __future__ import annotations

import torch

from .source import ClipSource


def draw_batch(
    clips: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Draw `count` clips of one size and cut them at random places to one length from `frame_choices`.

    The length is one that every drawn clip has; no clip may be shorter than the shortest choice. Returns latents
    `[count, F, 4, h, w]` fp32, caption rows `[count]`, clip numbers, and the first frame of each cut.
    """

    def integer(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    sizes = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float32)
    bucket = buckets[int(torch.multinomial(sizes, 1, generator=generator))]
    if len(bucket) >= count:
        chosen = [bucket[i] for i in torch.randperm(len(bucket), generator=generator)[:count].tolist()]
    else:
        chosen = [bucket[integer(len(bucket))] for _ in range(count)]
    room = min(clips.lengths[i] for i in chosen)
    choices = [frames for frames in frame_choices if frames <= room]
    frames = choices[integer(len(choices))]
    cut, starts = [], []
    for i in chosen:
        starts.append(integer(clips.lengths[i] - frames + 1))
        cut.append(clips.frames(i, starts[-1], frames, generator))
    return torch.stack(cut), torch.tensor([clips.caption[i] for i in chosen]), chosen, starts


def longest_draw(clips: ClipSource, buckets: list[list[int]], count: int, frame_choices: list[int]) -> int:
    """Return the largest of `frame_choices` that `draw_batch` can cut a batch to."""
    lengths = [sorted((clips.lengths[i] for i in bucket), reverse=True) for bucket in buckets]
    room = max(some[count - 1 if count <= len(some) else 0] for some in lengths)  # only small buckets repeat
    return max(frames for frames in frame_choices if frames <= room)
