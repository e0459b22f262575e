"""What holds at a share of a run: the noise of its phase, and the config with the phase's own fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .phases import NoiseStage, Stage
from .train import TrainConfig

_Phase = TypeVar("_Phase", NoiseStage, Stage)


def _at(stages: Sequence[_Phase], progress: float) -> _Phase | None:
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
