"""Files of temporal weights: recognised, checked, read, written and converted."""
