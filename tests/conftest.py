"""What every rung of the test ladder shares: few threads and fixed seeds, so that figures repeat."""

import os
import random
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# `python -m pytest` puts the checkout on sys.path, where our nodes/ would hide ComfyUI's module of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != REPOSITORY]

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


@pytest.fixture(autouse=True)
def _seeds():
    """The same random numbers for each test, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond so many bytes."""
    import resource
    import signal
    from contextlib import contextmanager

    @contextmanager
    def limited(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)

    return limited
