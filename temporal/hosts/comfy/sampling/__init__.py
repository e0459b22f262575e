"""The frame contract carried out: the wrapper on top, chain and segment below it."""
