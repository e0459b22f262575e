"""Finished segments on disk, so that a chain that was killed resumes and ends in the same latents.

Under ComfyUI's user folder, `sdxl-anime-video/resume/<resume_id>/<run>/` holds one safetensors file a segment, written
whole or not at all and with a checksum, and `run.json` with the digest of each part of the run's fingerprint, which
shows what has changed. <run> is the digest of all parts, so runs of one graph with two samplers lie side by side.
The newest `KEPT_NAMES` names stay, and the newest `KEPT_RUNS` runs of each.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .....files import write_whole
from ....clip.contract import Chain
from ..sampling.segment import Clip, Sampling
from .fingerprint import SAMPLED_BY, Digests, fingerprint

WHO = "Segment Chain"
KEPT_NAMES = 8
KEPT_RUNS = 6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_resume_id(name: str) -> None:
    """Raise ValueError for a name that cannot name a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"resume_id {name!r} cannot name a folder; use up to 64 letters, digits, - and _, such as my-clip-1"
        )


class FinishedSegments:
    """The segments of one run that are finished."""

    def __init__(self, folder: Path):
        self._folder = folder

    @classmethod
    def open(cls, chain: Chain, clip: Clip, sampling: Sampling) -> FinishedSegments:
        """Return the segments of this run, finished by an earlier try. If all runs of this name differ, the log says in
        what.

        Raises ValueError if another file or folder is in their place, or if the runs cannot be compared.
        """
        check_resume_id(chain.resume_id)
        named = Path(folder_paths.get_user_directory()) / "sdxl-anime-video" / "resume" / chain.resume_id
        parts = fingerprint(chain, clip, sampling)
        folder = named / Digests().digest(parts)
        with _failures_logged(folder):
            _require(named.parent, Path.is_dir)
            for path in (named, folder):
                _require(path, _is_own_folder)
            for path in folder.glob("*"):
                _require(path, _is_own_file)
            if not folder.exists() and (changed := _changed(named, parts)):
                logging.warning(
                    "%s: resume_id %s starts afresh, because this changed: %s", WHO, chain.resume_id, changed
                )
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "run.json", json.dumps(parts, indent=1).encode())
        _keep_newest(folder, KEPT_RUNS)
        _keep_newest(named, KEPT_NAMES)
        return cls(folder)

    def load(self, k: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the samples of the k-th segment and the same without noise, or None if it must be sampled."""
        path = self._path(k)
        try:
            with safe_open(path, framework="pt") as file:
                found = file.get_tensor("samples"), file.get_tensor("clean")
                if file.metadata()["checksum"] != self._checksum(k, *found):
                    raise ValueError("its data do not match their checksum")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logging.warning("%s: %s is damaged (%s) and is sampled again", WHO, path, error)
            return None
        logging.info("%s: segment %d was finished before", WHO, k + 1)
        return found

    def keep(self, k: int, samples: torch.Tensor, clean: torch.Tensor) -> None:
        """Keep the k-th segment; if that fails, the log says so."""
        tensors = {name: value.detach().cpu().clone() for name, value in (("samples", samples), ("clean", clean))}
        metadata = {"checksum": self._checksum(k, **tensors)}
        with _failures_logged(self._folder):
            write_whole(self._path(k), save(tensors, metadata))

    def _path(self, k: int) -> Path:
        return self._folder / f"{k:04}.safetensors"

    def _checksum(self, k: int, samples: torch.Tensor, clean: torch.Tensor) -> str:
        return Digests().digest([self._folder.name, k, samples, clean])


def _changed(named: Path, parts: dict[str, str]) -> str:
    """Return the parts in which a run differs from the most similar one that the same node sampled."""
    changes = []
    for record in named.glob("*/run.json"):
        try:
            before = dict(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if before.get(SAMPLED_BY) == parts[SAMPLED_BY]:
            changes.append([name for name in {**parts, **before} if before.get(name) != parts.get(name)])
    return ", ".join(min(changes, key=len, default=[]))


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _require(path: Path, fits: Callable[[Path], bool]) -> None:
    """Raise ValueError if a path exists and is of the wrong kind."""
    if (path.exists() or path.is_symlink()) and not fits(path):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        raise ValueError(
            f"finished segments cannot be kept, because {path} is a {kind}; move it away or change resume_id"
        )


@contextmanager
def _failures_logged(folder: Path) -> Iterator[None]:
    """Log a failure to write segments, and let sampling go on."""
    try:
        yield
    except OSError as error:
        logging.error(
            "%s: finished segments cannot be kept in %s (%s). Sampling goes on, but a crash would lose them: "
            "free space on that disk, and let ComfyUI write there",
            WHO,
            folder,
            error,
        )


def _keep_newest(folder: Path, number: int) -> None:
    """Remove all folders beside this one but the newest."""
    try:
        os.utime(folder)
        folders = sorted(filter(_is_own_folder, folder.parent.iterdir()), key=lambda each: each.stat().st_mtime)
    except OSError:  # there is no folder, which is in the log
        return
    for old in folders[:-number]:
        logging.info("%s: the segments in %s are removed; the newest %d are kept", WHO, old, number)
        shutil.rmtree(old, ignore_errors=True)
