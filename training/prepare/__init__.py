"""The `prepare` verb: videos to a cache of latents, captions and sizes that training reads."""
