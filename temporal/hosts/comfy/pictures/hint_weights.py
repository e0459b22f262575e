"""Weights of the networks that draw hints: finding, downloading and reading them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FOLDER = "controlnet_aux"
PUBLISHED = "lllyasviel/Annotators"
"""The repository at the Hugging Face hub that holds all of them."""


def find(name: str) -> Path | None:
    """Return a file of weights, by its published name or as safetensors, or None.

    Searched are models/controlnet_aux, flat or with the folders that the pack comfyui_controlnet_aux makes, then that
    pack's own folder, then the hub's local cache.
    """
    from huggingface_hub import try_to_load_from_cache

    names = (name, f"{Path(name).stem}.safetensors")
    file = next((place / one for place in _places() for one in names if (place / one).is_file()), None)
    if file is None:
        cached = try_to_load_from_cache(PUBLISHED, name)
        file = Path(cached) if isinstance(cached, str) else None
    return file


def stamp(file: Path) -> tuple[Path, int, int]:
    """Return a file with its size and time, which change when the file does."""
    facts = file.stat()
    return file, facts.st_size, facts.st_mtime_ns


def obtain(names: tuple[str, ...], kind: str, download: bool) -> list[Path]:
    """Return the files of these names; with `download`, missing ones are fetched from the hub first.

    Raises FileNotFoundError that names the missing files, their place at the hub and the folder for them, and
    ConnectionError if a download fails.
    """
    missing = [name for name in names if find(name) is None]
    if missing and not download:
        raise FileNotFoundError(
            f"{kind} needs {' and '.join(missing)}; put the files from huggingface.co/{PUBLISHED} into "
            f"models/{FOLDER}, or turn on download"
        )
    for name in missing:
        _fetch(name)
    return [file for name in names if (file := find(name))]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors or torch.save file. No code in it is run.

    Raises ValueError that names the file and the remedy, if the file is damaged or holds no tensors.
    """
    from ....weights.header import WeightsFileError
    from ....weights.torch_file import open_weights

    try:
        opened = open_weights(path)
        return {key: opened.read(key).clone() for key in opened.shapes}  # a mapped file could not be replaced
    except WeightsFileError as error:
        raise ValueError(f"{path.name} {error}") from None


def _places() -> Iterator[Path]:
    """Return the folders that may hold weights, ours first."""
    import folder_paths

    for folder in folder_paths.get_folder_paths(FOLDER):
        yield from (Path(folder), Path(folder, PUBLISHED), Path(folder, "ckpts", PUBLISHED))
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        yield Path(folder, "comfyui_controlnet_aux", "ckpts", PUBLISHED)


def _fetch(name: str) -> None:
    """Download a file into models/controlnet_aux. The hub's library keeps an incomplete file under another name."""
    import folder_paths
    from comfy.model_management import InterruptProcessingException
    from huggingface_hub import hf_hub_download

    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    logging.info(f"Downloading {name} from huggingface.co/{PUBLISHED} into models/{FOLDER}")
    # huggingface_hub before 1.0 takes no bar of ours and shows its own in the console.
    shown: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        shown["tqdm_class"] = _progress_bar()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hf_hub_download(PUBLISHED, name, local_dir=folder, **shown)
    except InterruptProcessingException:
        raise
    except Exception as error:  # of the hub, of its HTTP library, or of the disk
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"cannot download {name} from huggingface.co/{PUBLISHED} ({first}). Try again, or put the file into "
            f"models/{FOLDER} yourself"
        ) from error


def _progress_bar() -> type:
    """Return a bar for the hub's downloads that also moves ComfyUI's bar and stops when the user interrupts."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            throw_exception_if_processing_interrupted()
            drawn = super().update(n)
            if self.disable:  # no console: then tqdm does not count
                self.n += n or 0
            if self.total:
                ProgressBar(self.total).update_absolute(self.n, self.total)
            return drawn

    return Bar
