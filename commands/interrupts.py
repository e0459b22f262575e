"""Signals that end a run: all act as Ctrl-C does, and none interrupts a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _handled() -> list[signal.Signals]:
    """Return the signals that this process does not ignore: nohup ignores SIGHUP, a background job SIGINT."""
    return [number for number in SIGNALS if signal.getsignal(number) not in (None, signal.SIG_IGN)]


def interrupt_on_signals() -> None:
    """Make each of the signals raise KeyboardInterrupt. Call it in the main thread."""
    for number in _handled():
        signal.signal(number, signal.default_int_handler)


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Hold signals back inside the context. It gives the list of those that came, and delivers them at its end.

    After an error they are not delivered. In other threads than the main one it does nothing: Python handles signals
    in the main thread only.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in _handled()}
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)
