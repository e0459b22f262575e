"""The toon world as it ships: a clip painter with ground truth, a tiny SDXL trained on it, and `make demo`."""
