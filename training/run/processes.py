"""The processes of a run: one as a rule, one a GPU under `accelerate launch`.

The temporal layers are small beside the frozen base, so the processes exchange only their gradients, once an optimizer
step. Each draws its clips by its number; nothing else differs between them, and only the first process writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from ...commands.precision import chosen_device


class Processes:
    """This process among those of the run, as a context manager; alone it does not communicate.

    device: `auto`, `cpu`, `cuda`, or `cuda:N` for a process alone. Raises ValueError for `cuda:N` among several
    processes, because each takes a GPU of its own.
    """

    def __init__(self, device: str = "auto"):
        self.rank, self.count = 0, int(os.environ.get("WORLD_SIZE", "1"))
        self.device = chosen_device(device)
        if self.count == 1:
            return
        if ":" in device:
            raise ValueError(f"device: {device} is one GPU for {self.count} processes; take auto, and each has its own")
        from accelerate import PartialState

        # The timeout covers the time in which the first process encodes clips or writes a file.
        self._state = PartialState(cpu=self.device.type == "cpu", timeout=timedelta(hours=24))
        self.rank, self.count = self._state.process_index, self._state.num_processes
        if self.device.type != "cpu":
            self.device = self._state.device

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.count > 1 and kind is None:  # after an error the others may wait for this one
            self._state.destroy_process_group()

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over the processes, in double precision."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum(0.0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the first process before the others, which find its files on the disk."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def share(self, things: Sequence[Any]) -> list[tuple[int, Any]]:
        """Return this process's part of a list, as (index, element)."""
        return list(enumerate(things))[self.rank :: self.count]
