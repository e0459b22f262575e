"""What changes in the course of a run: the noise from stage to stage, and the size of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

from ...commands.config import Share

Until = Annotated[float, Field(gt=0, lt=1)]
FrameChoices = Annotated[
    list[Annotated[int, Field(ge=2)]],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]


class NoiseStage(BaseModel):
    """Noise of the frames of a clip, until a share of the run is done."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    until: Until | Literal[1] = 1
    correlation: Share
    mode: Literal["shared", "progressive"] = "shared"
    probability: Share = 1.0


class Stage(BaseModel):
    """Fields of the config that are others until a share of the run is done; None keeps the config's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    until: Until
    clips: Path | None = None
    resolution: PositiveInt | None = None
    frames: FrameChoices | None = None
    clips_per_step: PositiveInt | None = None
    accumulation: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None


_Some = TypeVar("_Some", NoiseStage, Stage)


def require_rising(stages: Sequence[_Some], name: str) -> None:
    """Raises ValueError unless each stage ends after the one before."""
    ends = [stage.until for stage in stages]
    if ends != sorted(set(ends)) or 1 in ends:
        raise ValueError(
            f"{name}: the stages end at {ends}; let each `until` lie between the one before it and 1, for after the "
            "last of them the config's own fields hold"
        )
