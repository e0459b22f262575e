"""Ways to sample a clip, each with the steps and the CFG that go together, and what speaks against a setting.

Values and ranges are those of the project's documents: 28 steps of DPM++ 2M on Karras noise levels at CFG 6.25; 4 to 6
steps at CFG 1.5 to 2 with an LCM LoRA; DPM++ SDE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_LCM_CFG = 2.0
LCM_STEPS = (4, 8)


@dataclass(frozen=True)
class Preset:
    """sampler: as a person reads it; steps and cfg: where none are given."""

    sampler: str
    steps: int
    cfg: float


PRESETS = {
    "best_hq": Preset("DPM++ 2M, Karras", 28, 6.25),
    "lcm": Preset("LCM, uniform", 6, 1.7),
    "sde": Preset("DPM++ 2M SDE, Karras", 28, 6.25),
}


@dataclass(frozen=True)
class Surroundings:
    """What is known of the model and of the graph around it.

    speed: files for few steps that lead to the model, an LCM LoRA first; is_lcm: whether the first is one, as far as a
    name tells. patched: whether any LoRA is on the model. graph: whether the graph could be read at all.
    lcm_sampling: whether the model was set to LCM sampling by another node. correlated: whether its frames share noise.
    samplers: (name, cfg) of samplers that come after and have a CFG of their own.
    """

    speed: Sequence[str] = ()
    is_lcm: bool = False
    patched: bool = False
    graph: bool = False
    lcm_sampling: bool = False
    correlated: bool = False
    samplers: Sequence[tuple[str, float]] = ()


def warnings(preset: str, steps: int, cfg: float, around: Surroundings) -> list[str]:
    """What is missing for a preset, or does not go with it; a sentence each."""
    if preset == "lcm":
        return _of_lcm(steps, cfg, around)
    found = []
    if around.speed:
        found.append(
            f"{around.speed[0]} is made for 4 to 6 steps at CFG 1.5 to 2; at CFG {cfg:g} it burns colours: choose the "
            "preset lcm, or take it out"
        )
    if around.lcm_sampling:
        found.append("the model is set to LCM sampling, which this preset is not for: take that node out")
    if preset == "sde" and not around.correlated:
        found.append(
            "the sampler adds noise at every step, other noise to every frame, so frames drift apart: add Correlated "
            "Noise to the model"
        )
    return found


def _of_lcm(steps: int, cfg: float, around: Surroundings) -> list[str]:
    found = []
    if not (around.speed if around.graph else around.patched):
        found.append(
            f"no LCM LoRA leads to the model, and {steps} steps of LCM without one give a blur: choose one as "
            "speed_lora of LoRA Stack, or the preset best_hq"
        )
    elif around.speed and not around.is_lcm:
        found.append(f"{around.speed[0]} is for few steps but, by its name, not for LCM")
    if cfg > MOST_LCM_CFG:
        found.append(f"CFG {cfg:g} burns colours under an LCM LoRA; 1.5 to 2 suit it")
    if not LCM_STEPS[0] <= steps <= LCM_STEPS[1]:
        found.append(f"{steps} steps: LCM is made for 4 to 6")
    for name, own in around.samplers:
        if own > MOST_LCM_CFG:
            found.append(f"{name} has CFG {own:g} of its own, which burns colours: connect this node's cfg to it")
    return found
