"""Errors of a node, under its name on the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class NodeError(ValueError):
    """An error that names its node."""


@contextmanager
def at_node(name: str) -> Iterator[None]:
    """Put a node's display name in front of each ValueError raised inside, unless the error names a node already.

    Below the edge of a node nothing has to know which node it works for. Also a decorator.
    """
    try:
        yield
    except NodeError:
        raise
    except ValueError as error:
        raise NodeError(f"{name}: {error}") from error
