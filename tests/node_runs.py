"""Nodes as ComfyUI runs them: with hidden inputs, a progress bar and a stop button."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

Interrupted = comfy.model_management.InterruptProcessingException


def with_hidden(node, **hidden):
    """The class that ComfyUI executes: a copy of the node's that holds hidden inputs, by their names."""
    values = {io.Hidden[name]: value for name, value in hidden.items()}
    wrapped = "v3_data" in inspect.signature(node.PREPARE_CLASS_CLONE).parameters  # later ComfyUI
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": values} if wrapped else values)


def stop(*_) -> None:
    """What ComfyUI's stop button does."""
    comfy.model_management.interrupt_current_processing()


@contextmanager
def progress(at_each: Callable[[int, int], None] = lambda value, total: None) -> Iterator[list[tuple[int, int]]]:
    """List the updates of ComfyUI's progress bar, (value, total), with which `at_each` is called, too."""
    seen = []

    def look(value, total, preview=None, node_id=None):
        seen.append((value, total))
        at_each(value, total)

    comfy.utils.set_progress_bar_global_hook(look)
    try:
        yield seen
        assert comfy.utils.PROGRESS_BAR_HOOK is look, "a node must leave the bar as it was"
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)


def names(folder: Path) -> list[str]:
    """Paths of all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
