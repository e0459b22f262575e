"""A clip's prompts: the schedule that names a prompt for each keyframe, and the text embeddings of all frames.

A schedule is text such as:

    # a comment
    girl, blue hair,          <- before the first position: begins every prompt
    0: running
    25%: jumping over a wall,
    high in the air           <- no position: continues the prompt above
    -1: landing
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .frames import Position, parse_positions
from .segments import plan_segments

INTERPOLATIONS = ("hold", "linear", "smooth", "slerp")
LONGEST_REPEATED = 24 * 77
"""Most tokens to which prompts of different lengths are repeated: 24 of CLIP's chunks."""


@dataclass(frozen=True)
class Keyframe:
    """A prompt, its frame, and the number of its line in the schedule."""

    frame: int
    prompt: str
    line: int


@dataclass
class _Entry:
    """The lines of one position, or those before the first."""

    words: list[str]
    line: int = 1
    source: str = ""
    position: Position | None = None

    def __str__(self) -> str:
        return f"line {self.line} ({_shortened(self.source)})"


def parse_schedule(text: str, frames: int) -> list[Keyframe]:
    """Return the prompts of a clip of `frames` frames, sorted by frame.

    A line that starts with a position and a colon begins a prompt. Other lines continue the prompt above; before the
    first position they belong to every prompt. A text without positions is one prompt. Blank lines and lines that start
    with # or // are skipped. Weights, further colons and line ends inside a prompt stay as written.

    Raises ValueError that names the line, for a position that cannot be read or lies outside the clip and for two
    prompts on one frame; also for a text without a prompt and for frames below 1.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}; it must be 1 or more")
    common, *entries = _read(text)
    if not entries and not common.words:
        raise ValueError(
            "prompts holds no prompt, only blank lines and comments (lines that start with # or //); write a prompt, "
            "or one for each keyframe such as 0: girl running"
        )
    found: dict[int, _Entry] = {}
    for entry in entries or [_Entry([], position=Position(0))]:
        frame = _frame_of(entry, frames)
        if frame in found:
            raise ValueError(f"{found[frame]} and {entry} are both frame {frame} of {frames}; remove one")
        found[frame] = entry
    return [
        Keyframe(frame, "\n".join(filter(None, [*common.words, *entry.words])), entry.line)
        for frame, entry in sorted(found.items(), key=lambda pair: pair[0])
    ]


def _read(text: str) -> list[_Entry]:
    """Return the lines before the first position (perhaps none), then an entry for each position, as written."""
    entries = [_Entry([])]
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        before, *after = re.split("[:\uff1a]", line, maxsplit=1)  # also the wide colon of Japanese keyboards
        if after and _is_meant_as_position(before):
            entry = _Entry([after[0].strip()], number, line)
            entry.position = _position(before.strip(), entry)
            entries.append(entry)
        else:
            entries[-1].words.append(line)
    return entries


def _is_meant_as_position(text: str) -> bool:
    """Return whether a text consists of digits and signs only: a mistyped position must not become part of a prompt."""
    marks = set(text) - set(" \t")
    digits = {mark for mark in marks if mark.isdigit()}
    return bool(digits or "%" in marks) and marks - digits <= set("+-.,;%\"'\u2212\u2013")


def _position(word: str, entry: _Entry) -> Position:
    try:
        places = parse_positions(word)
    except ValueError:
        places = ()
    if len(places) != 1:
        raise ValueError(
            f"{entry}: cannot read position {word!r}; begin the line with one frame number, such as 0 or -1 (the "
            "last), or a percentage from 0% to 100%, and a colon"
        )
    return places[0]


def _frame_of(entry: _Entry, frames: int) -> int:
    assert entry.position is not None
    frame = entry.position.resolve(frames)
    if not 0 <= frame < frames:
        raise ValueError(
            f"{entry}: position {entry.position} is outside the clip of {frames} frame(s); use 0 to {frames - 1}, or "
            "-1 for the last, or raise frames"
        )
    return frame


def _shortened(line: str, length: int = 48) -> str:
    return repr(line if len(line) <= length else line[: length - 3] + "...")


@dataclass(frozen=True)
class Mix:
    """The prompt of one frame: keyframe `a`, and `weight` (0 to 1) of keyframe `b`, as indices of a schedule."""

    a: int
    b: int
    weight: float


def mix_keyframes(
    keyframes: Sequence[Keyframe], frames: int, interpolation: str, segment_frames: int, overlap: int
) -> list[Mix]:
    """Return the mix of prompts of each frame of the clip.

    hold: a keyframe's prompt stays until the next keyframe. linear and slerp: the weight grows evenly from keyframe to
    keyframe. smooth: the weight follows w^2 (3 - 2 w), which starts and ends gently. Frames before the first keyframe
    have its prompt; frames after the last have the last prompt.

    segment_frames: 0, or the length of the segments in which the clip is sampled (see `segments.py`), each with
    `overlap` known frames. All new frames of a segment then have the mix of its first new frame.

    Raises ValueError for an unknown interpolation, for impossible segments and for a keyframe that no frame would show.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    starts = _segment_starts(frames, segment_frames, overlap)
    at = [keyframe.frame for keyframe in keyframes]
    shown_from = [starts[bisect_right(starts, frame) - 1] for frame in range(frames)] if starts else range(frames)
    mixes = [_mix_at(at, frame, interpolation) for frame in shown_from]
    shown = {index for mix in mixes for index in (mix.a, mix.b)}
    for index, keyframe in enumerate(keyframes):
        if index not in shown:
            place = bisect_right(starts, keyframe.frame)
            borders = " or ".join(map(str, starts[place - 1 : place + 1]))
            raise ValueError(
                f"line {keyframe.line} ({_shortened(keyframe.prompt)}): no frame would show the prompt of frame "
                f"{keyframe.frame}, because prompts change only where segments of {segment_frames} frames with overlap "
                f"{overlap} begin; move it to frame {borders}, or set segment_frames to 0"
            )
    return mixes


def _segment_starts(frames: int, segment_frames: int, overlap: int) -> list[int]:
    """Return the first new frame of each segment; an empty list without segments."""
    if segment_frames == 0:
        return []
    if segment_frames < 0 or not 0 <= overlap < segment_frames:
        raise ValueError(
            f"segments of {segment_frames} frames cannot overlap by {overlap}; set both as on Segment Chain, the "
            "overlap below segment_frames"
        )
    return [segment.new.start for segment in plan_segments(frames, segment_frames, overlap)]


def _mix_at(at: Sequence[int], frame: int, interpolation: str) -> Mix:
    """Return the mix at a frame; `at` holds the keyframes' frames in rising order."""
    a = max(bisect_right(at, frame) - 1, 0)
    if interpolation == "hold" or a == len(at) - 1 or frame <= at[a]:
        return Mix(a, a, 0.0)
    weight = (frame - at[a]) / (at[a + 1] - at[a])
    if interpolation == "smooth":
        weight *= weight * (3 - 2 * weight)
    return Mix(a, a + 1, weight)


def equal_lengths(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return token embeddings `[1, T_k, C]` repeated to one length, the least common multiple of the T_k.

    ComfyUI repeats tokens in the same way to batch prompts of different lengths. Repeated keys and values leave
    attention unchanged, while zeros or the tokens of an empty prompt would draw attention. Prompts of one length stay
    as they are, to the bit.

    Raises ValueError that names the lengths, if the common length exceeds `LONGEST_REPEATED` tokens: every frame of the
    clip holds that many.
    """
    lengths = sorted({text.shape[1] for text in texts})
    length = math.lcm(*lengths)
    if length > max(LONGEST_REPEATED, lengths[-1]):
        raise ValueError(
            f"prompts of {', '.join(map(str, lengths))} tokens would have to be repeated to {length:,} tokens to have "
            f"one length, and the limit is {LONGEST_REPEATED:,}; shorten the longest prompts or bring all to one "
            "length (a prompt takes 77 tokens for every 75 that are written)"
        )
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def spread(
    values: Sequence[torch.Tensor], mixes: Sequence[Mix], interpolation: str, widths: Sequence[int] = ()
) -> torch.Tensor:
    """Return one row a frame, `[F, ..., C]`, from the keyframes' embeddings `[1, ..., C]`.

    widths: for slerp, the widths of the parts of a vector that rotate separately, such as CLIP-L's and CLIP-G's; by
    default a vector is one part. Weight 0 gives a keyframe's embedding to the bit. Computes in float32 or wider and
    returns the embeddings' dtype.
    """
    return torch.cat([_mixed(values[mix.a], values[mix.b], mix.weight, interpolation, widths) for mix in mixes])


def _mixed(a: torch.Tensor, b: torch.Tensor, weight: float, interpolation: str, widths: Sequence[int]) -> torch.Tensor:
    if weight == 0:
        return a
    exact = torch.promote_types(a.dtype, torch.float32)
    if interpolation != "slerp":
        return torch.lerp(a.to(exact), b.to(exact), weight).to(a.dtype)
    parts = list(widths) or [a.shape[-1]]
    pairs = zip(a.to(exact).split(parts, dim=-1), b.to(exact).split(parts, dim=-1), strict=True)
    return torch.cat([slerp(x, y, weight) for x, y in pairs], dim=-1).to(a.dtype)


def slerp(a: torch.Tensor, b: torch.Tensor, weight: float) -> torch.Tensor:
    """Return vectors `[..., C]` between `a` and `b`: the direction rotates evenly and the length changes evenly.

    Directions follow Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985). Parallel, opposite and zero
    vectors have no unique arc, or none worth computing; they are interpolated linearly.
    """
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    # arccos(a . b) would lose half its digits at small angles.
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    direction = (torch.sin((1 - weight) * angle) * unit_a + torch.sin(weight * angle) * unit_b) / torch.sin(angle)
    straight = (torch.sin(angle) < 1e-3) | (norm_a < 1e-8) | (norm_b < 1e-8)
    return torch.where(straight, torch.lerp(a, b, weight), torch.lerp(norm_a, norm_b, weight) * direction)
