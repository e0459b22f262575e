"""The folder of a training run: made, locked against other runs, and given the config."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from ...commands.config import ConfigError
from ...files import write_whole
from ..config.train import SHAPES_ONLY, TrainConfig
from .checkpoint import checkpoints
from .processes import Processes


def begin(config: TrainConfig, adapter: Path, processes: Processes) -> None:
    """Make the run folder. Raises ConfigError, in every process, for a base without weights or a folder in use.

    adapter: the file of weights that the run will write.
    """
    if config.base == SHAPES_ONLY:
        raise ConfigError(f"base: {SHAPES_ONLY} is only the shapes of SDXL; give your checkpoint with --base")
    found = "checkpoints" if checkpoints(config.output) else adapter.name if adapter.exists() else None
    if config.resume is None and found:
        raise ConfigError(
            f"output: {config.output} holds {found} of an earlier run; go on with --resume latest, or give another "
            "folder"
        )
    processes.wait()  # every process has checked before the first one writes
    if processes.main:
        try:
            config.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(config.output, error) from None


@contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Lock the folder against other runs. Raises ConfigError, in every process, if another run holds it."""
    lock = FileLock(folder / ".lock")
    refusal: ConfigError | None = None
    if processes.main:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            refusal = ConfigError(f"output: another run is writing into {folder}; wait for it, or give another folder")
        except OSError as error:
            refusal = _unwritable(folder, error)
    if refusal := processes.gather(refusal)[0]:
        raise refusal
    try:
        yield
    finally:
        lock.release()


def write_config(config: TrainConfig) -> None:
    """Write config.yaml into the run folder."""
    written = yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)
    try:
        write_whole(config.output / "config.yaml", written)
    except OSError as error:
        raise _unwritable(config.output, error) from None


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"output: {folder} cannot be written to ({error.strerror}); name another folder")
