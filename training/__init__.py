"""Clips to cache to temporal layers: the verbs `prepare` and `train`."""
