"""The one place that imports ComfyUI's node API, so that a change of it is met in one file."""

from comfy_api.latest import ComfyExtension, InputImpl, io, ui

__all__ = ["ComfyExtension", "InputImpl", "io", "ui"]
