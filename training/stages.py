"""What changes in the course of a run: the noise from stage to stage, and the size of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from .config import TrainConfig

Until = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
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


def _at(stages: Sequence[_Some], progress: float) -> _Some | None:
    return next((stage for stage in stages if progress < stage.until), None)


def last_noise(config: TrainConfig) -> NoiseStage:
    """The noise with which a run ends, that of the config's own fields: clips are to be sampled with the same."""
    return NoiseStage(
        correlation=config.noise_correlation, mode=config.noise_mode, probability=config.noise_probability
    )


def noise_at(config: TrainConfig, progress: float) -> NoiseStage:
    """The noise when a share `progress` (0..1) of the run is done."""
    return _at(config.noise_curriculum, progress) or last_noise(config)


def config_at(config: TrainConfig, progress: float) -> TrainConfig:
    """The config with the fields of the stage that holds when a share `progress` (0..1) of the run is done."""
    stage = _at(config.stages, progress)
    if stage is None:
        return config
    return config.model_copy(update=stage.model_dump(exclude={"until"}, exclude_none=True))


def describe_noise(config: TrainConfig) -> str:
    """`trained_noise` of an adapter's metadata, such as `shared 0.5 in 70% of clips, else independent`."""
    noise = last_noise(config)
    if not noise.correlation or not noise.probability:
        return "independent"
    share = "" if noise.probability == 1 else f" in {noise.probability:.0%} of clips, else independent"
    return f"{noise.mode} {noise.correlation:g}{share}"
