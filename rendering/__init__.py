"""Clips without ComfyUI: the verbs `render` and `evaluate`."""
