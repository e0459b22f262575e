"""Clips in and out of files, by PyAV: no external program, bounded memory, nothing half-written."""
