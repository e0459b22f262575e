"""Training phases: overrides of the noise and of other config fields for a part of a run."""

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


class NoisePhase(BaseModel):
    """Noise of the frames of a clip, in force until the fraction `until` of the run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    until: Until | Literal[1] = 1
    correlation: Share
    mode: Literal["shared", "progressive"] = "shared"
    probability: Share = 1.0


class Phase(BaseModel):
    """Overrides of config fields, in force until the fraction `until` of the run; None keeps the config's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    until: Until
    clips: Path | None = None
    resolution: PositiveInt | None = None
    frames: FrameChoices | None = None
    clips_per_step: PositiveInt | None = None
    accumulation: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None


AnyPhase = TypeVar("AnyPhase", NoisePhase, Phase)


def require_rising(phases: Sequence[AnyPhase], name: str) -> None:
    """Raise ValueError unless each phase ends after the one before, and the last of them before the run."""
    ends = [phase.until for phase in phases]
    if ends != sorted(set(ends)) or 1 in ends:
        raise ValueError(
            f"{name}: the phases end at {ends}; set each `until` above the one before and the last below 1, because "
            "the config's own fields hold after it"
        )
