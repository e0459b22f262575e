"""The mathematics: attention, adapter file, noise, frames, metrics. Pure torch, no host."""
