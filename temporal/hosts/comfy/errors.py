"""Errors of a node, under its name on the page."""

from collections.abc import Iterator
from contextlib import contextmanager


class NodeError(ValueError):
    """An error that names its node."""


@contextmanager
def at_node(name: str) -> Iterator[None]:
    """Put a node's display name in front of each error raised inside: of bad values, files and missing libraries.

    A ValueError becomes a NodeError, unless it is one already; an OSError or ImportError keeps its type. Below the edge
    of a node nothing has to know which node it works for. Also a decorator.
    """
    try:
        yield
    except NodeError:
        raise
    except ValueError as error:
        raise NodeError(f"{name}: {error}") from error
    except (OSError, ImportError) as error:
        # libraries derive classes that take other arguments
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        raise kind(f"{name}: {error}") from error
