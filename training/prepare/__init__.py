"""Videos to a cache of latents, captions and sizes that training reads."""
