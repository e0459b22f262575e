"""What the nodes that save a clip share: their inputs, and the way of frames into files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..files import whole_or_nothing
from ._api import InputImpl, io, ui


def clip_inputs() -> list:
    """Rate, name, quality, stills and sound."""
    return [
        io.Float.Input(
            "fps",
            default=12.0,
            min=0.01,
            max=240.0,
            step=0.001,
            tooltip="Frames per second, kept exactly; 23.976 means 24000/1001. Anime is drawn at 8 to 12.",
        ),
        io.String.Input(
            "filename_prefix",
            default="video/clip",
            tooltip="Start of the file name, below ComfyUI's output folder; may name subfolders and use "
            "%year%, %month%, %day%, %width%, %height%. A number is added.",
        ),
        io.Int.Input(
            "crf",
            default=16,
            min=0,
            max=51,
            tooltip="H.264 quality: 16 is visually lossless, 23 is small, each 6 more halve the file. 0 is "
            "lossless, but browsers cannot play it.",
        ),
        io.Boolean.Input(
            "save_frames",
            default=False,
            tooltip="Also save every frame as PNG, in a folder beside the clip, and a JSON file with the settings.",
        ),
        io.Audio.Input("audio", optional=True, tooltip="Sound to go with the clip (AAC), cut at its end."),
    ]


def clip_outputs() -> list:
    """The saved file."""
    return [io.Video.Output(display_name="video", tooltip="The saved file, for nodes that take a video.")]


def clip_hidden() -> list:
    """What makes the file load as a graph."""
    return [io.Hidden.prompt, io.Hidden.extra_pnginfo]


def save_clip(
    node: str,
    hidden,
    frames: Iterable[Any],
    size: tuple[int, int, int],
    *,
    fps: float,
    filename_prefix: str,
    crf: int,
    save_frames: bool,
    audio: dict[str, Any] | None,
) -> io.NodeOutput:
    """Frames, as they come, into an mp4 that carries its graph; with ``save_frames`` also into PNGs and a JSON file.

    node:   id of the node, for messages
    hidden: the node's hidden inputs
    frames: pictures `[H, W, 3]`, taken one by one
    size:   how many there are, their height and width

    Raises ValueError that names the node for what cannot be saved, and OSError that names it and the place where
    nothing can be written. Then, and when interrupted, no file is left.
    """
    place = _place(node, filename_prefix)
    count, height, width = size
    graph = _graph(hidden)
    facts = {"frames": count, "width": width, "height": height, "crf": crf}
    try:
        target, subfolder = _next_path(filename_prefix, width, height)
        _write(target, frames, fps, facts, graph, save_frames, audio)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
    except OSError as error:
        raise OSError(
            f"{node}: cannot save {place}: {error.strerror or error}; free space on that disk, let ComfyUI write "
            "there, or choose another filename_prefix"
        ) from error
    preview = ui.PreviewVideo([ui.SavedResult(target.name, subfolder, io.FolderType.output)])
    return io.NodeOutput(InputImpl.VideoFromFile(str(target)), ui=preview)


def _place(node: str, prefix: str) -> Path:
    """Where files of this prefix lie. Raises ValueError for one that names no file below ComfyUI's output folder."""
    import folder_paths

    if not prefix.strip("/\\ .") or "\0" in prefix:
        raise ValueError(f"{node}: filename_prefix {prefix!r} names no file; write one, such as clip")
    output = Path(folder_paths.get_output_directory())
    place = output / prefix
    if ".." in Path(prefix).parts or not place.is_relative_to(output):
        raise ValueError(
            f"{node}: filename_prefix {prefix!r} leads outside the output folder or holds ..; write one below that "
            "folder, such as video/clip"
        )
    return place


def _next_path(prefix: str, width: int, height: int) -> tuple[Path, str]:
    """The next free file for this prefix, and its folder below ComfyUI's output."""
    import folder_paths

    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_.mp4", subfolder


def _graph(hidden) -> dict[str, Any]:
    """What makes the file load as a graph: `prompt`, `workflow` and what else the page sent along."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    graph = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        graph["prompt"] = hidden.prompt
    return graph


def _write(
    target: Path, frames, fps: float, facts: dict[str, Any], graph: dict[str, Any], save_frames: bool, audio
) -> None:
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    from ..media.metadata import to_json
    from ..media.rates import exact_fps
    from ..media.stills import PATTERN, save_stills
    from ..media.writer import write_clip

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
