"""Chains of the tiny SDXL that resume, and what may change between two runs of one."""

import threading
from pathlib import Path

import comfy.hooks
import folder_paths
import torch

from clip_sampling import POSITIVE, chained, model

LENGTH = 7  # frames of a clip
AFRESH = "starts afresh, because this changed: "


def runs() -> Path:
    return Path(folder_paths.get_user_directory()) / "sdxl-anime-video" / "resume"


def segments(resume_id: str) -> list[Path]:
    return sorted((runs() / resume_id).glob("*/*.safetensors"))


def resuming(plain, resume_id: str = ""):
    return chained(plain, 4, 1, resume_id=resume_id)


def hooked(strength):
    """Conditioning under a hook that changes weights of the model, as a LoRA hook does."""
    hook, group = comfy.hooks.WeightHook(strength, strength), comfy.hooks.HookGroup()
    weights = {k: v for k, v in model().model.state_dict().items() if k.endswith("to_q.weight")}
    generator = torch.Generator().manual_seed(1)
    hook.weights = {k: ("diff", (torch.randn(v.shape, generator=generator),)) for k, v in weights.items()}
    hook.need_weight_init = False
    group.add(hook)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0))
    frames.add(comfy.hooks.HookKeyframe(0.5, start_percent=0.6))
    group.set_keyframes_on_hooks(frames)
    return comfy.hooks.set_hooks_for_conditioning(POSITIVE, hooks=group)


def locked(model, value):
    """The model with a patch that holds what no digest can see into."""
    held = [threading.Lock(), value]
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * held[1])
    return model
