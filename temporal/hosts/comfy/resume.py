"""Finished segments on disk, so that a chain that was killed goes on and ends in the same latents.

Under ComfyUI's user folder, `sdxl-anime-video/resume/<resume_id>/`: one safetensors file a segment, written whole or
not at all, each marked with the fingerprint of the run it belongs to; and `run.json` with the digest of every part of
that fingerprint, to say what has changed. The newest `KEPT_RUNS` runs are kept.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .contract import Chain
from .fingerprint import digest

if TYPE_CHECKING:
    from .sampling import Clip, Sampling

WHO = "SAV_SegmentChain"
KEPT_RUNS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_resume_id(name: str) -> None:
    """Raise ValueError for a name that is not a plain one: it becomes a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{WHO}: resume_id {name!r} cannot name a folder; use up to 64 letters, digits, - and _, such as my-clip-1"
        )


class FinishedSegments:
    """The segments of one run that are finished."""

    def __init__(self, folder: Path, run: str):
        self._folder, self._run = folder, run

    @classmethod
    def open(cls, chain: Chain, clip: Clip, sampling: Sampling) -> FinishedSegments:
        """What an earlier run under this name left; nothing, said aloud with the reason, if anything that matters has
        changed since."""
        import folder_paths

        check_resume_id(chain.resume_id)
        folder = Path(folder_paths.get_user_directory()) / "sdxl-anime-video" / "resume" / chain.resume_id
        parts = fingerprint(chain, clip, sampling)
        run = digest(parts)
        before = _read_run(folder)
        if before is not None and before != parts:
            changed = ", ".join(name for name in parts if before.get(name) != parts[name])
            logging.warning("%s: resume_id %s starts afresh, for this changed: %s", WHO, chain.resume_id, changed)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", lambda part: part.write_text(json.dumps(parts, indent=1), encoding="utf-8"))
        _forget_old_runs(folder)
        return cls(folder, run)

    def load(self, k: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Samples of the k-th segment and the same without noise, or None if it must be sampled."""
        path = self._folder / f"{k:04}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata()["run"] != self._run:
                    return None
                logging.info("%s: segment %d was finished before", WHO, k + 1)
                return file.get_tensor("samples"), file.get_tensor("clean")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            logging.warning("%s: %s cannot be read (%s) and is sampled again", WHO, path, error)
            return None

    def save(self, k: int, samples: torch.Tensor, clean: torch.Tensor) -> None:
        """Keep the k-th segment. Raises OSError if the disk is full."""
        tensors = {name: value.detach().cpu().clone() for name, value in (("samples", samples), ("clean", clean))}
        _write(self._folder / f"{k:04}.safetensors", lambda part: save_file(tensors, part, {"run": self._run}))


def fingerprint(chain: Chain, clip: Clip, sampling: Sampling) -> dict[str, str]:
    """A digest of each thing that the latents of a chain depend on, by a name that a person understands."""
    import comfyui_version

    guider, sampler = sampling.executor.class_obj, sampling.sampler
    contract = clip.contract
    options = guider.model_options["transformer_options"]
    return {
        "seed or noise": digest([clip.noise, clip.seed]),
        "latent image": digest(clip.latent),
        "mask": digest(clip.given_mask),
        "sigmas": digest(sampling.sigmas),
        "conditioning": digest({name: [_without_ids(c) for c in conds] for name, conds in guider.conds.items()}),
        "sampler": digest([getattr(sampler, "sampler_function", sampler), vars(sampler)]),
        "guidance": digest(
            [type(guider).__name__, {k: v for k, v in vars(guider).items() if isinstance(v, (int, float))}]
        ),
        "chain": digest([chain.segment_frames, chain.overlap, chain.carry, chain.carry_denoise]),
        "frame settings": digest(
            [contract.noise, contract.smoothings, contract.pulls, contract.pins, contract.windows]
        ),
        "model": digest([guider.model_patcher, guider.model_patcher.object_patches]),
        "temporal adapter and other patches": digest(options.get("patches", {})),
        "graph": chain.graph,
        "versions": digest([torch.__version__, comfyui_version.__version__, guider.model_patcher.load_device.type]),
    }


def _without_ids(cond: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cond.items() if key != "uuid"}


def _read_run(folder: Path) -> dict[str, str] | None:
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if folder.exists() else None
    return found if isinstance(found, dict) else {}


def _write(path: Path, write: Any) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    write(part)
    part.replace(path)


def _forget_old_runs(folder: Path) -> None:
    os.utime(folder)
    runs = sorted((run for run in folder.parent.iterdir() if run.is_dir()), key=lambda run: run.stat().st_mtime)
    for run in runs[:-KEPT_RUNS]:
        logging.info("%s: the segments of resume_id %s are removed; the newest %d are kept", WHO, run.name, KEPT_RUNS)
        shutil.rmtree(run, ignore_errors=True)
