"""`make demo`: a real ComfyUI server, our graphs queued over HTTP, clips and figures in `outputs/`."""
