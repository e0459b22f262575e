"""A training run: its folder, trainer, validation, checkpoints, clips and report."""
