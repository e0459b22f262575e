"""The figures of a clip, each defined once for nodes, trainer, command line and tests."""
