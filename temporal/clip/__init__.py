"""The rules of a clip: frames, noise, segments, windows, prompts, keyframes, and the contract that hosts carry out."""
