"""A digest of each thing that the latents of a chain depend on, for comparison with an earlier run."""

from dataclasses import fields
from typing import Any

import torch

from ....clip.contract import CONTRACT_KEY, Chain
from ..sampling.segment import Clip, Sampling
from .digests import Digests
from .own_code import own_code

SAMPLED_BY = "sampled by node"


def fingerprint(chain: Chain, clip: Clip, sampling: Sampling) -> dict[str, str]:
    """Return the digests, by names for people.

    Raises ValueError for an object that cannot be compared with an earlier run, neither by content nor by the graph.
    """
    import comfyui_version

    guider = sampling.executor.class_obj
    contract, model = clip.contract, guider.model_patcher
    options = {key: value for key, value in guider.model_options.items() if key != CONTRACT_KEY}
    guidance = {key: value for key, value in vars(guider).items() if key not in _NOT_GUIDANCE}
    found = Digests()
    digest = found.digest
    parts = {
        "seed or noise": digest([clip.noise, clip.seed]),
        "latent image": digest(clip.latent),
        "mask": digest(clip.given_mask),
        "sigmas": digest(sampling.sigmas),
        "conditioning": digest({name: [_without_ids(c) for c in conds] for name, conds in guider.conds.items()}),
        "sampler": digest(sampling.sampler),
        "guidance": digest([type(guider), guidance]),
        "chain": digest([chain.segment_frames, chain.overlap, chain.carry, chain.carry_denoise]),
        "frame settings": digest(
            [getattr(contract, field.name) for field in fields(contract) if field.name != "chain"]
        ),
        "model": digest(model),
        "temporal adapter and other patches": digest(options),
        "versions": digest([torch.__version__, comfyui_version.__version__, model.load_device.type, own_code()]),
    }
    node, graph = graph_of_sampler()
    if found.by_kind_only and not graph:
        raise ValueError(
            f"resume_id {chain.resume_id}: cannot resume, because {found.by_kind_only[0]} cannot be compared with the "
            "earlier run; clear resume_id or remove the node that adds it"
        )
    return parts | {SAMPLED_BY: node} | {name: digest(inputs) for name, inputs in graph.items()}


_NOT_GUIDANCE = ("model_patcher", "model_options", "conds", "original_conds", "inner_model", "loaded_models")


def graph_of_sampler() -> tuple[str, dict[str, Any]]:
    """Return the id of the node that is sampling, and the inputs of it and of all nodes before it, by name.

    Call it while the sampler runs: Segment Chain itself does not run again when a node behind it changes. Both are
    empty when no graph is run.
    """
    from comfy_execution.graph_utils import is_link
    from comfy_execution.progress import get_progress_state
    from comfy_execution.utils import get_executing_context

    context, graph = get_executing_context(), get_progress_state().dynprompt
    waiting = [context.node_id] if context else []
    found: dict[str, Any] = {}
    names: dict[str, Any] = {}
    while waiting:
        node = waiting.pop()
        if node in found or not graph.has_node(node):
            continue
        found[node] = graph.get_node(node).get("inputs") or {}
        names[f"node {node} ({graph.get_node(node).get('class_type')})"] = found[node]
        waiting += [value[0] for value in found[node].values() if is_link(value)]
    return context.node_id if context else "", names


def _without_ids(cond: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cond.items() if key != "uuid"}
