"""Where the mathematics meets a UNet or a sampler."""
