"""Sampling presets: samplers with the steps and the CFG that suit them, and warnings about settings that do not.

Values and ranges come from the project's documents: 28 steps of DPM++ 2M on Karras noise levels at CFG 6.25; 4 to 6
steps at CFG 1.5 to 2 with an LCM LoRA; DPM++ SDE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_LCM_CFG = 2.0
LCM_STEPS = (4, 8)


@dataclass(frozen=True)
class Preset:
    """sampler: its name for people; steps and cfg: defaults."""

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
    """The model and the graph around it, as far as they are known.

    speed: files for few steps before the model, an LCM LoRA first; is_lcm: whether the first is one, by its name.
    patched: whether a LoRA is on the model. graph: whether the graph could be read.
    lcm_sampling: whether another node set the model to LCM sampling. correlated: whether its frames share noise.
    samplers: (name, cfg) of later samplers with a CFG of their own.
    """

    speed: Sequence[str] = ()
    is_lcm: bool = False
    patched: bool = False
    graph: bool = False
    lcm_sampling: bool = False
    correlated: bool = False
    samplers: Sequence[tuple[str, float]] = ()


def warnings(preset: str, steps: int, cfg: float, around: Surroundings) -> list[str]:
    """Return warnings, a sentence each: what a preset lacks, and what does not suit it."""
    if preset == "lcm":
        return _of_lcm(steps, cfg, around)
    found = []
    if around.speed:
        found.append(
            f"{around.speed[0]} is made for 4 to 6 steps at CFG 1.5 to 2; at CFG {cfg:g} it burns colours: choose the "
            "preset lcm, or remove it"
        )
    if around.lcm_sampling:
        found.append("the model is set to LCM sampling, which does not suit this preset: remove that node")
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
