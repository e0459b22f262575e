"""Reading sources: videos, pictures and .npz clips, their frames, captions and cuts."""
