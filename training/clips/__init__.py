"""Clips to train on, read from a folder of videos or from the cache that `prepare` writes; the cache's format."""
