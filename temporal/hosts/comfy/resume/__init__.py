"""Finished segments on disk, and what decides whether they may be used again."""
