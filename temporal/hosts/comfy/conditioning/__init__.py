"""Conditioning and ControlNets of some frames of a clip."""
