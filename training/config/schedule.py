"""The noise and the config at a fraction of a run, by its training phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .phases import NoisePhase, Phase
from .train import TrainConfig

_AnyPhase = TypeVar("_AnyPhase", NoisePhase, Phase)


def _at(phases: Sequence[_AnyPhase], progress: float) -> _AnyPhase | None:
    return next((phase for phase in phases if progress < phase.until), None)


def last_noise(config: TrainConfig) -> NoisePhase:
    """Return the noise at the end of a run, by the config's own fields: clips should be sampled with the same."""
    return NoisePhase(
        correlation=config.noise_correlation, mode=config.noise_mode, probability=config.noise_probability
    )


def noise_at(config: TrainConfig, progress: float) -> NoisePhase:
    """Return the noise at the fraction `progress` (0..1) of the run."""
    return _at(config.noise_curriculum, progress) or last_noise(config)


def config_at(config: TrainConfig, progress: float) -> TrainConfig:
    """Return the config with the overrides of the phase at the fraction `progress` (0..1) of the run."""
    phase = _at(config.stages, progress)
    if phase is None:
        return config
    return config.model_copy(update=phase.model_dump(exclude={"until"}, exclude_none=True))


def describe_noise(config: TrainConfig) -> str:
    """Return `trained_noise` of an adapter's metadata, such as `shared 0.5 in 70% of clips, else independent`."""
    noise = last_noise(config)
    if not noise.correlation or not noise.probability:
        return "independent"
    share = "" if noise.probability == 1 else f" in {noise.probability:.0%} of clips, else independent"
    return f"{noise.mode} {noise.correlation:g}{share}"
