"""One training step: batch, noise, objective, hints, optimizer."""
