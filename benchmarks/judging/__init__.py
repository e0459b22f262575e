"""Figures of clips that the toon world's models make."""
