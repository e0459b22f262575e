"""Whether the pack computes on a GPU what it computes on a CPU: `python -m sdxl_anime_video.benchmarks.gpu_check`."""
