"""The toon world: a clip painter with ground truth, and a tiny SDXL trained on it."""
