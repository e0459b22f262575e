"""The noise schedule that a motion module was trained on, on a ComfyUI MODEL.

A module knows only the noise levels of its training: AnimateDiff's mm_sdxl goes to beta 0.020 (sigma 65.9), SDXL itself
to 0.012 (sigma 14.6). The MODEL's kind of prediction, its zero-terminal-SNR flag and core's distilled (LCM) steps stay.
"""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_sampling
import torch

AUTO, UNCHANGED = "auto", "sdxl"
# Core calls the scaled-linear schedule "linear", and the linear one "sqrt_linear".
EXPLICIT = {
    "scaled-linear 0.00085-0.020": ("linear", 0.00085, 0.020),
    "scaled-linear 0.00085-0.012": ("linear", 0.00085, 0.012),
    "linear 0.00085-0.012": ("sqrt_linear", 0.00085, 0.012),
}
CHOICES = (AUTO, UNCHANGED, *EXPLICIT)


def with_beta_schedule(model, choice: str, betas: tuple[float, float], node: str, held: bool = False):
    """A clone of the MODEL on another noise schedule; only a clone if it is on that one already.

    choice: "auto" for scaled-linear from betas[0] to betas[1], "sdxl" to leave the MODEL's own, or a key of EXPLICIT.
    held: whether another motion module's schedule is on the MODEL, which may then not change.

    Raises ValueError, naming the node, for an unknown choice, for a MODEL whose noise levels do not come from betas,
    and for a change of a schedule that is held.
    """
    if choice not in CHOICES:
        raise ValueError(f"{node}: beta_schedule is {choice!r}; choose one of {', '.join(CHOICES)}")
    model = model.clone()
    if choice == UNCHANGED:
        return model
    kind, start, end = EXPLICIT.get(choice, ("linear", *betas))
    now = model.get_model_object("model_sampling")
    discrete = comfy.model_sampling.ModelSamplingDiscrete
    if not isinstance(now, discrete) or isinstance(now, comfy.model_sampling.ModelSamplingDiscreteEDM):
        raise ValueError(
            f"{node}: the noise levels of this MODEL do not come from a schedule of betas, so beta_schedule {choice} "
            f"cannot be set; choose {UNCHANGED}, which leaves them as they are"
        )
    settings = {"beta_schedule": kind, "linear_start": start, "linear_end": end}
    config = SimpleNamespace(sampling_settings={**model.model.model_config.sampling_settings, **settings})
    new = type(now)(config, zsnr=now.zsnr)  # of a model's configuration it reads nothing else
    if torch.equal(new.sigmas, now.sigmas):
        return model
    if held:
        raise ValueError(
            f"{node}: another motion module on this MODEL has set its noise levels, up to {float(now.sigma_max):.1f}, "
            f"and beta_schedule {choice} would change them, up to {float(new.sigma_max):.1f}; choose {UNCHANGED} here, "
            "or modules that were trained on one schedule"
        )
    model.add_object_patch("model_sampling", new)
    return model
