"""Saving a clip below ComfyUI's output folder, with the graph that made it."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from .....files import whole_or_nothing
from .....media.metadata import to_json
from .....media.writer import PATTERN, save_stills


def save_clip(
    hidden,
    frames: Iterable[Any],
    size: tuple[int, int, int],
    fps: float,
    filename_prefix: str,
    crf: int,
    save_frames: bool,
    audio: dict[str, Any] | None,
) -> tuple[Path, str]:
    """Write frames into an mp4 that carries its graph; return the file and its folder below ComfyUI's output folder.

    With `save_frames` each frame also becomes a PNG, and the settings a JSON file.

    hidden: a node's hidden inputs `prompt` and `extra_pnginfo`. frames: pictures `[H, W, 3]`, read one by one. size:
    their number, height and width.

    Raises ValueError for frames or settings that cannot be saved, and OSError that names the place where writing
    failed. After an error or an interrupt no file is left.
    """
    place = _place(filename_prefix)
    count, height, width = size
    facts = {"frames": count, "width": width, "height": height, "crf": crf}
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        target = Path(folder) / f"{name}_{counter:05}_.mp4"
        _write(target, frames, fps, facts, _graph(hidden), save_frames, audio)
    except OSError as error:
        raise OSError(
            f"cannot save {place}: {error.strerror or error}; free space on that disk, let ComfyUI write there, or "
            "choose another filename_prefix"
        ) from error
    return target, subfolder


def _place(prefix: str) -> Path:
    """Return the path of a prefix. Raises ValueError unless it names a file below ComfyUI's output folder."""
    if not prefix.strip("/\\ .") or "\0" in prefix:
        raise ValueError(f"filename_prefix {prefix!r} names no file; write one, such as clip")
    output = Path(folder_paths.get_output_directory())
    place = output / prefix
    if ".." in Path(prefix).parts or not place.is_relative_to(output):
        raise ValueError(
            f"filename_prefix {prefix!r} leads outside the output folder or holds ..; write one below that folder, "
            "such as video/clip"
        )
    return place


def _graph(hidden) -> dict[str, Any]:
    """Return the metadata from which the page restores the graph: `prompt`, `workflow` and whatever else it sent."""
    if args.disable_metadata:
        return {}
    graph = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        graph["prompt"] = hidden.prompt
    return graph


def _write(
    target: Path, frames, fps: float, facts: dict[str, Any], graph: dict[str, Any], save_frames: bool, audio
) -> None:
    from .....media.rates import exact_fps
    from .....media.writer import write_clip

    bar = ProgressBar(facts["frames"])

    def progress(done: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    stills = target.with_name(target.stem + "frames")
    with ExitStack() as stack:
        if save_frames:
            folder = stack.enter_context(whole_or_nothing(stills))
            folder.mkdir()
            frames = save_stills(frames, folder, graph)
            settings = {
                "clip": target.name,
                **facts,
                "fps": str(exact_fps(fps)),
                "stills": f"{stills.name}/{PATTERN}",
                **graph,
            }
            note = stack.enter_context(whole_or_nothing(target.with_suffix(".json")))
            note.write_text(to_json(settings, indent=2), encoding="utf-8")
        write_clip(target, frames, fps, facts["crf"], graph, progress, audio)
