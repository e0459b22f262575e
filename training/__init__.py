"""Clips to cache to adapter."""
