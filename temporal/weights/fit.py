"""Whether temporal layers fit a model."""

from collections.abc import Mapping
from typing import Any

from ..layers.base import TemporalLayers
from .listing import MOST


def require_fit(layers: TemporalLayers, model: Mapping[Any, Any], name: str) -> None:
    """Raise ValueError, naming the model, unless it has each site of the layers in the same shape.

    Layers of a kind with `every_site` must have each site of the model, too. model: site -> shape; name: of the model.
    """
    sites = layers.sites
    bare = [site for site in model if site not in sites] if layers.every_site else []
    absent = [site for site in sites if site not in model]
    other = [
        f"{site} ({layers.describe_shape(shape)}, the model has {layers.describe_shape(model[site])})"
        for site, shape in sites.items()
        if site in model and model[site] != shape
    ]
    problems = {
        f"missing in the {layers.kind}": bare,
        "missing in the model": absent,
        "of another shape": other,
    }
    problems = {problem: found for problem, found in problems.items() if found}
    if not problems:
        return
    most = max(1, MOST // len(problems))
    counts = [f"{text}: {len(found)}, such as {', '.join(map(str, found[:most]))}" for text, found in problems.items()]
    raise ValueError(
        f"the {layers.kind} fits {len(sites) - len(absent) - len(other)} of {len(model)} sites of the model {name}; "
        f"{'; '.join(counts)}. Use an SDXL model, or an adapter or motion module that was trained for this one."
    )
