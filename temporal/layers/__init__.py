"""Temporal layers as torch modules: the adapter, motion modules, and where in an SDXL UNet they belong."""
