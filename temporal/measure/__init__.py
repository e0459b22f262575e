"""One definition of each figure of a clip, for nodes, trainer, command line and tests."""
