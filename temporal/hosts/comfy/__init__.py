"""ComfyUI as a host: attaching to a MODEL, to its sampling and to its conditioning."""
