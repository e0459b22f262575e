"""ComfyUI as a host: attaching to a MODEL and to its sampling."""
