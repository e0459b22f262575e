"""Temporal layers on a ComfyUI MODEL."""
