"""Shared parts of nodes: errors, inputs, outputs, checks, folders of weights, and texts on the page."""

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

from ..temporal.hosts.comfy.errors import at_node
from ._api import io, ui


def named_classmethod(execute: Callable[..., io.NodeOutput]) -> classmethod:
    """Return a node's `execute` as a classmethod whose errors begin with the node's display name."""

    @wraps(execute)
    def named(cls, *args, **inputs):
        try:
            return execute(cls, *args, **inputs)
        except Exception:
            with at_node(cls.define_schema().display_name):
                raise

    return classmethod(named)


# Inputs and outputs.


def images_input() -> io.Image.Input:
    """Return the input for the frames of a clip."""
    return io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped.")


def frames_input(tooltip: str, most: int = 4096) -> io.Int.Input:
    """Return the input for the number of frames."""
    return io.Int.Input("frames", default=16, min=1, max=most, tooltip=tooltip)


def fps_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    """Return an input for frames per second."""
    return io.Float.Input(name, default=default, min=0.01, max=240.0, step=0.001, tooltip=tooltip)


def share_input(name: str, default: float, tooltip: str, **options: Any) -> io.Float.Input:
    """Return an input from 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **options)


def strength_input(tooltip: str, name: str = "strength", default: float = 1.0, **options: Any) -> io.Float.Input:
    """Return an input from -10 to 10 for the strength of a file's weights."""
    return io.Float.Input(name, default=default, min=-10.0, max=10.0, step=0.01, tooltip=tooltip, **options)


def denoise_input(**options: Any) -> io.Float.Input:
    """Return the denoise input of a node that makes noise levels."""
    tooltip = (
        "1 starts from pure noise. Less keeps more of the input latent: the same number of steps covers only the lower "
        "part of the noise schedule. 0 does nothing."
    )
    return share_input("denoise", 1.0, tooltip, **options)


def percent_inputs(effect: str) -> list[io.Float.Input]:
    """Return the inputs start_percent and end_percent. effect: what is in force between them, for the tooltips."""
    where = f"Where in the noise schedule {effect}"
    options: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        io.Float.Input(
            "start_percent", default=0.0, tooltip=f"{where} begins: 0 is pure noise, 1 the finished picture.", **options
        ),
        io.Float.Input("end_percent", default=1.0, tooltip=f"{where} ends: 1 is the last step.", **options),
    ]


def file_input(name: str, folder: str, tooltip: str) -> io.Combo.Input:
    """Return the input that chooses a file in a folder below ComfyUI's models."""
    import folder_paths

    return io.Combo.Input(name, options=folder_paths.get_filename_list(folder), tooltip=tooltip)


def patched_model(change: str) -> list[io.Model.Output]:
    """Return the outputs of a node that only changes a MODEL. change: such as "with smoothing"."""
    tooltip = f"The model {change}, for any sampler, KSampler included."
    return [io.Model.Output("patched_model", display_name="model", tooltip=tooltip)]


# Checks. ComfyUI checks typed values, but not values that come through a link.


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a value outside `low` to `high`, NaN included."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:.15g}; it must lie between {low:g} and {high:g}")


def check_at_least(name: str, value: int, low: int) -> None:
    """Raise ValueError for a value below `low`."""
    if value < low:
        raise ValueError(f"{name} is {value}; it must be {low} or more")


def check_choice(name: str, value: str, options: Iterable[str]) -> None:
    """Raise ValueError for a value that is not among the options."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(options)}")


def check_percents(start_percent: float, end_percent: float) -> None:
    """Raise ValueError for a percentage outside 0 to 1 and for a range that ends before it starts."""
    check_between("start_percent", start_percent, 0, 1)
    check_between("end_percent", end_percent, 0, 1)
    if start_percent > end_percent:
        raise ValueError(
            f"start_percent {start_percent:g} is after end_percent {end_percent:g}, so nothing would happen; swap them"
        )


def check_pictures(images, name: str = "images") -> None:
    """Raise ValueError unless `images` are one picture or more, `[N, height, width, 3 or 4]`."""
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
        raise ValueError(f"{name} has shape {list(images.shape)}; give at least one picture [N, height, width, 3]")


# Folders of weights.


def register_folder(folder: str) -> None:
    """Add models/<folder> to ComfyUI's folders; those of extra_model_paths.yaml and of other packs stay."""
    import folder_paths

    folder_paths.add_model_folder_path(folder, str(Path(folder_paths.models_dir) / folder))
    # A new folder would list every file. Pickles stay listed, because choosing one gives an error with its remedy.
    folder_paths.folder_names_and_paths[folder][1].update(folder_paths.supported_pt_extensions)


def path_of(folder: str, name: str) -> str:
    """Return the path of a file. Raises FileNotFoundError."""
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"there is no {name!r} in models/{folder}; put the file there and press R on the page to refresh the list"
        )
    return path


def fingerprint(folder: str, name: str) -> str:
    """Return a text that changes when the file does. It holds no path, because it is written into saved clips."""
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return name
    facts = Path(path).stat()
    return f"{facts.st_size}/{facts.st_mtime_ns}"


# Texts on the page.


def show(node: type[io.ComfyNode], text: str, warnings: Iterable[str] = ()) -> ui.PreviewText:
    """Show a text on the node and in the run's history; warnings also go to the log.

    node: its hidden inputs are None outside of a graph.
    """
    for warning in warnings:
        logging.warning("%s: %s", node.define_schema().display_name, warning)
    if node.hidden is not None and node.hidden.unique_id is not None:
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_progress_text(text, node.hidden.unique_id)
    return ui.PreviewText(text)
