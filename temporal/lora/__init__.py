"""Style LoRAs: the names of their tensors, tags in prompts, their files, and a report."""
