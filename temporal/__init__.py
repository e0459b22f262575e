"""What this project is about: clips, temporal layers, their files and figures.

Pure torch and einops; only `hosts` knows ComfyUI and diffusers.
"""
