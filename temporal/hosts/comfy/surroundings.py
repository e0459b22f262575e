"""What a MODEL and the graph around a Sampling Preset say about LoRAs for few steps, shared noise and samplers."""

from pathlib import Path
from typing import Any

import folder_paths

from ....schedulers.presets import Surroundings
from ...clip.contract import contract_of
from ...lora.file import is_lcm_name, is_speed_name, title_of
from ...weights.header import WeightsFileError, read_header
from .graph import Graph, leads_to, model_files
from .presets import is_lcm


def surroundings(model: Any, graph: Graph, node: str) -> Surroundings:
    """Return what a preset should know. A MODEL keeps no names of LoRAs, so those come from the graph.

    graph: empty outside of one; node: the id of the Sampling Preset in it.
    """
    patched = bool(model.patches)
    before = leads_to(graph, node, "model")
    after = [(other, graph[other]) for other in graph if node in leads_to(graph, other, "model")]
    speed = sorted(_speed_files(graph, before, patched), key=lambda one: not one[1])
    return Surroundings(
        speed=[name for name, _ in speed],
        is_lcm=any(lcm for _, lcm in speed),
        patched=patched,
        graph=bool(before),
        lcm_sampling=is_lcm(model),
        correlated=contract_of(model.model_options).noise is not None
        or any(content.get("class_type") == "SAV_CorrelatedNoise" for _, content in after),
        samplers=[
            (f"node {other} ({content.get('class_type')})", content["inputs"]["cfg"])
            for other, content in after
            if isinstance(content.get("inputs", {}).get("cfg"), int | float)
        ],
    )


def _speed_files(graph: Graph, nodes: list[str], patched: bool) -> list[tuple[str, bool]]:
    """The files for few steps in the inputs of nodes, each with whether it is for LCM.

    What speed_lora of LoRA Stack names is one, whatever its own name. A LoRA that left no patch on the model is off.
    """
    loras = set(folder_paths.get_filename_list("loras"))
    chosen = [graph[node].get("inputs", {}).get("speed_lora") for node in nodes]  # a list where it is linked
    found = []
    for name in model_files(graph, nodes):
        is_file = name in loras
        names = (name, _title(name)) if is_file else (name,)
        if (patched or not is_file) and (name in chosen or is_speed_name(*names)):
            found.append((name, is_lcm_name(*names) or (name in chosen and not is_speed_name(*names))))
    return found


def _title(name: str) -> str:
    """The title in a LoRA file's metadata."""
    try:
        return title_of(read_header(Path(folder_paths.get_full_path_or_raise("loras", name))).metadata)
    except (WeightsFileError, OSError):
        return ""  # its loader reports what is wrong with it
