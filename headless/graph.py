"""Changing an API prompt before it is queued: nodes are found by their class, never by their number."""

import copy
from typing import Any

Prompt = dict[str, Any]


def only(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """The inputs of the one node of a class. Raises ValueError when there is none, or more than one."""
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]
    if len(found) != 1:
        raise ValueError(f"The graph has {len(found)} {class_type} nodes, not one.")
    return found[0]


def variant(
    prompt: Prompt,
    *,
    caption: str,
    seed: int,
    strength: float,
    prefix: str,
    correlation: float | None = None,
    frames: int | None = None,
    steps: int | None = None,
) -> Prompt:
    """A copy of one of our graphs with its caption, seed, adapter strength and file prefix set.

    correlation, frames, steps: left as the graph has them when None.
    """
    prompt = copy.deepcopy(prompt)
    sampler = only(prompt, "SamplerCustom")
    sampler["noise_seed"] = seed
    positive, _ = sampler["positive"]
    prompt[positive]["inputs"]["text"] = caption
    only(prompt, "SAV_ApplyTemporalAdapter")["strength"] = strength
    only(prompt, "SAV_SaveClip")["filename_prefix"] = prefix
    if correlation is not None:
        only(prompt, "SAV_CorrelatedNoise")["correlation"] = correlation
    if frames is not None:
        only(prompt, "SAV_EmptyVideoLatent")["frames"] = frames
    if steps is not None:
        only(prompt, "SAV_BestHQSigmas")["steps"] = steps
    return prompt


def with_files(prompt: Prompt, *, checkpoint: str, adapter: str) -> Prompt:
    """A copy of the SDXL graph that loads these files, named as ComfyUI lists them."""
    prompt = copy.deepcopy(prompt)
    only(prompt, "CheckpointLoaderSimple")["ckpt_name"] = checkpoint
    only(prompt, "SAV_LoadTemporalAdapter")["adapter_name"] = adapter
    return prompt


def saved_clip(outputs: dict[str, Any]) -> dict[str, str]:
    """The file record (filename, subfolder, type) of the clip among a prompt's outputs."""
    for output in outputs.values():
        for files in output.values():
            for file in files if isinstance(files, list) else ():
                if isinstance(file, dict) and str(file.get("filename", "")).endswith(".mp4"):
                    return file
    raise ValueError("The prompt ended without a saved clip.")
