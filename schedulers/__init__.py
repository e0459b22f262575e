"""BestHQ (DPM++ 2M on Karras sigmas): the mathematics in `best_hq`, its faces in `diffusers` and `comfy`."""
