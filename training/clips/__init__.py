"""Clips that training draws from: a folder of videos, or the cache that `prepare` made."""
