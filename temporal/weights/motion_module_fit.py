"""Whether a motion module fits a model."""

from __future__ import annotations

from collections.abc import Mapping

from ..layers.motion_module import Site
from .motion_module_keys import MotionModuleError


def require_fit(module: Mapping[Site, int], model: Mapping[Site, int], name: str) -> None:
    """Raise MotionModuleError, naming the model and every site, unless the model has each site in the same width.

    Both map a site to its channels. The model may have more: some modules leave levels out.
    """
    problems = [f"{site.path} is not in the model" for site in module if site not in model]
    problems += [
        f"{site.path} has {width} channels in the module and {model[site]} in the model"
        for site, width in module.items()
        if site in model and model[site] != width
    ]
    if problems:
        raise MotionModuleError(
            f"The motion module does not fit the model {name} ({len(module)} places, the model has {len(model)}): "
            f"{'; '.join(problems)}. Use a module that was trained for this kind of model."
        )
