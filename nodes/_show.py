"""Texts that a node shows to the person at the page."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ._api import ui


def show(node: str, hidden, text: str, warnings: Iterable[str] = ()) -> ui.PreviewText:
    """Put a text on the node on the page and into the run's history; warnings also go to the log.

    node: id of the node's class; hidden: its hidden inputs, with `unique_id`, or None outside of a graph
    """
    for warning in warnings:
        logging.warning("%s: %s", node, warning)
    if hidden is not None and hidden.unique_id is not None:
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_progress_text(text, hidden.unique_id)
    return ui.PreviewText(text)
