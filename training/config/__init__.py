"""The typed config of a training run."""
