"""Measurements, and the programs that make and judge the toon world's weights. Nothing imports them."""
