"""Shared graphs (`*.json`, as ComfyUI's editor saves them), thumbnails, and `api/`, the same graphs as prompts."""
