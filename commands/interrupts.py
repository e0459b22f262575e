"""Signals that end a run: each one as Ctrl-C, and none in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _heard() -> list[signal.Signals]:
    """Those that this process does not ignore: under nohup it ignores SIGHUP, in a shell's background SIGINT."""
    return [number for number in SIGNALS if signal.getsignal(number) not in (None, signal.SIG_IGN)]


def interrupt_on_signals() -> None:
    """From now on each of them raises KeyboardInterrupt. Call it in the main thread."""
    for number in _heard():
        signal.signal(number, signal.default_int_handler)


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Inside, signals wait in the list that this gives; on leaving without an error they are delivered.

    Python hears signals in the main thread only.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in _heard()}
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)
