"""What every verb of the command line does with errors: one line on stderr that names the verb, and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable


def run_verb(verb: str, action: Callable[[], int | None], interrupted: str) -> int:
    """Run a verb's action; returns its exit status, or 1 after an error of the user's making and 130 after Ctrl-C.

    interrupted: what there is to know after Ctrl-C, such as that nothing was written. Other errors are faults of the
    program and are raised.
    """
    try:
        return action() or 0
    except ModuleNotFoundError as error:
        complain(verb, ValueError(f"{error.name} is not installed; pip install -r requirements-training.txt"))
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        complain(verb, error)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {interrupted}\n")
        return 130
    return 1


def complain(verb: str, error: Exception) -> None:
    """The error in one line; where every process of a training run has the same one, by the first alone."""
    from .config import ConfigError

    rank, text = os.environ.get("RANK", "0"), _in_one_line(error)
    if rank == "0":
        sys.stderr.write(f"error: {verb}: {text}\n")
    elif not isinstance(error, (ConfigError, FloatingPointError)):
        sys.stderr.write(f"error in process {rank}: {verb}: {text}\n")


def _in_one_line(error: Exception, most: int = 2000) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:  # without Python's number of the error
        text = f"{error.filename}: {error.strerror}"
        if error.errno == errno.ENOSPC and "make room" not in text:
            text += "; make room on the disk"
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."
