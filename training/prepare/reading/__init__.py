"""Sources of clips: what there is, and its frames, captions and cuts."""
