"""diffusers as a host: the frozen SDXL, UNets with temporal layers, and sampling with them."""
