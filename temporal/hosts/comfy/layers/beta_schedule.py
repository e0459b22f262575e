"""The noise schedule of a motion module's training, on a ComfyUI MODEL.

A module works only at the noise levels of its training: AnimateDiff's mm_sdxl goes to beta 0.020 (sigma 65.9), SDXL
itself to 0.012 (sigma 14.6). The MODEL's kind of prediction, its zero-terminal-SNR flag and core's distilled (LCM)
steps stay.
"""

from types import SimpleNamespace

import comfy.model_sampling
import torch

from ..own_sigmas import with_own_sigmas

NAMED = {
    "scaled-linear 0.00085-0.020": ("linear", 0.00085, 0.020),
    "scaled-linear 0.00085-0.012": ("linear", 0.00085, 0.012),
    "linear 0.00085-0.012": ("sqrt_linear", 0.00085, 0.012),
}
"""Choice -> kind, first and last beta. Core's "linear" is linear in the square root of beta, "sqrt_linear" in beta."""
UNCHANGED = "sdxl"
"""The choice that leaves a model its own schedule."""
CHOICES = ("auto", UNCHANGED, *NAMED)


def with_beta_schedule(model, choice: str, betas: tuple[float, float], held: bool = False):
    """Return a clone of the MODEL on another noise schedule; only a clone if it is on that one already.

    choice: one of CHOICES; "auto" is scaled-linear from betas[0] to betas[1], the schedule of the training.
    held: whether another motion module has set the MODEL's schedule, which may then not change.

    Raises ValueError for an unknown choice, for a MODEL whose noise levels do not come from betas, and for a change of
    a schedule that is held.
    """
    if choice not in CHOICES:
        raise ValueError(f"beta_schedule is {choice!r}; choose one of {', '.join(CHOICES)}")
    model = model.clone()
    if choice == UNCHANGED:
        return model
    kind, start, end = NAMED.get(choice, ("linear", *betas))
    now = model.get_model_object("model_sampling")
    discrete = comfy.model_sampling.ModelSamplingDiscrete
    if not isinstance(now, discrete) or isinstance(now, comfy.model_sampling.ModelSamplingDiscreteEDM):
        raise ValueError(
            f"beta_schedule {choice} cannot be set: the noise levels of this MODEL do not come from a schedule of "
            f"betas. Choose {UNCHANGED}, which leaves them as they are."
        )
    settings = {"beta_schedule": kind, "linear_start": start, "linear_end": end}
    config = SimpleNamespace(sampling_settings={**model.model.model_config.sampling_settings, **settings})
    new = with_own_sigmas(type(now))(config, zsnr=now.zsnr)  # of a model's configuration it reads nothing else
    if torch.equal(new.sigmas, now.sigmas.cpu()):  # a loaded model's are on its device
        return model
    if held:
        raise ValueError(
            f"beta_schedule {choice} would change the noise levels to a maximum of {float(new.sigma_max):.1f}, and "
            f"another motion module on this MODEL has set {float(now.sigma_max):.1f}. Choose {UNCHANGED} here, or "
            "use modules that were trained on one schedule."
        )
    model.add_object_patch("model_sampling", new)
    return model
