"""One training step: batch, noise, hints, layers, loss, optimizer."""
