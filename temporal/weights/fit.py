"""Whether an adapter fits a model."""

from __future__ import annotations

from collections.abc import Mapping

from .adapter_format import AdapterError

Sites = Mapping[str, tuple[int, int]]


def require_fit(adapter: Sites, model: Sites, name: str) -> None:
    """Raise AdapterError, naming the model and every site, unless both have the same sites of the same shape.

    Both map the diffusers path of a transformer block to (channels, heads).
    """
    problems = [f"missing from the adapter: {path}" for path in model if path not in adapter]
    problems += [f"not in the model: {path}" for path in adapter if path not in model]
    problems += [
        f"{path} has {_shape(adapter[path])} in the adapter and {_shape(shape)} in the model"
        for path, shape in model.items()
        if path in adapter and adapter[path] != shape
    ]
    if problems:
        raise AdapterError(
            f"The temporal adapter does not fit the model {name} ({len(adapter)} sites, the model has {len(model)}): "
            f"{'; '.join(problems)}. Use an adapter that was trained for this kind of model."
        )


def _shape(site: tuple[int, int]) -> str:
    return f"{site[0]} channels in {site[1]} heads"
