"""Small motion modules with random weights, for the tiny UNets of `tiny`."""

import tiny
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site


def sites(config: tiny.TinyConfig = tiny.ALL_LEVELS, mid: bool = False) -> dict[Site, int]:
    """Every place for a temporal transformer in the UNet, with its channels, as the published modules have them."""
    layers = config.res_blocks
    found = {Site("down", i, j): width for i, width in enumerate(config.widths) for j in range(layers)}
    if mid:
        found[Site("mid", 0, 0)] = config.widths[-1]
    upward = tuple(reversed(config.widths))
    return found | {Site("up", i, j): width for i, width in enumerate(upward) for j in range(layers + 1)}


def module(
    format: str = "animatediff",
    config: tiny.TinyConfig = tiny.ALL_LEVELS,
    seed: int | None = 5,
    mid: bool = False,
    max_frames: int = 8,
    **keywords,
) -> MotionModule:
    """A motion module, with sinusoidal positions; silent for seed None."""
    made = MotionModule(MotionConfig(sites(config, mid), format, max_frames), **keywords)
    made.reset_parameters()
    if seed is not None:
        tiny.randomise(made, seed)
    return made.eval().requires_grad_(False)
