"""The memory of a training run, estimated from shapes, and which settings lower it."""
