"""Trainings of the toon world's own models."""
