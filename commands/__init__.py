"""What every verb shares: typed configs, overrides, help, one-line errors, signals, precision and device."""
