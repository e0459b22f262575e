"""Save a clip as mp4 that carries its graph, with its frames as PNGs where wanted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ._api import InputImpl, io, ui

CATEGORY = "SDXL Anime Video/video"
NODE = "SAV_SaveClip"


class SaveClip(io.ComfyNode):
    """Pictures to an H.264 mp4 in ComfyUI's output folder; dropped on the page the file brings its graph back."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Save Clip",
            category=CATEGORY,
            description="Saves pictures as an mp4 that carries its graph: drop the file on the page to load it again.",
            inputs=[
                io.Image.Input("images", tooltip="The frames in order, one batch. Alpha is dropped."),
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
                    tooltip="Also save every frame as PNG, in a folder beside the clip, and a JSON file with the "
                    "settings.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound to go with the clip (AAC), cut at its end."),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The saved file, for nodes that take a video."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images, fps=12.0, filename_prefix="video/clip", crf=16, save_frames=False, audio=None
    ) -> io.NodeOutput:
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"{NODE}: images has shape {list(images.shape)}; give at least one frame [F, H, W, 3]")
        if not filename_prefix.strip("/\\ ."):
            raise ValueError(f"{NODE}: filename_prefix {filename_prefix!r} names no file; write one, such as clip")
        _, height, width, _ = images.shape
        target, subfolder = _next_path(filename_prefix, width, height)
        try:
            _save(target, images, fps, crf, _graph(cls), save_frames, audio)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        preview = ui.PreviewVideo([ui.SavedResult(target.name, subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(target)), ui=preview)


def _next_path(prefix: str, width: int, height: int) -> tuple[Path, str]:
    """The next free file for this prefix, and its folder below ComfyUI's output. Core refuses to leave that."""
    import folder_paths

    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_.mp4", subfolder


def _graph(cls) -> dict[str, Any]:
    """What makes the file load as a graph: `prompt`, `workflow` and what else the page sent along."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    graph = dict(cls.hidden.extra_pnginfo or {})
    if cls.hidden.prompt is not None:
        graph["prompt"] = cls.hidden.prompt
    return graph


def _save(target: Path, images, fps: float, crf: int, graph: dict[str, Any], save_frames: bool, audio) -> None:
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    from ..media.files import whole_or_nothing
    from ..media.metadata import to_json
    from ..media.stills import PATTERN, save_stills
    from ..media.video import exact_fps, write_clip

    bar = ProgressBar(len(images))

    def progress(done: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    frames: Iterable[Any] = images
    stills = target.with_name(target.stem + "frames")
    with ExitStack() as stack:
        if save_frames:
            folder = stack.enter_context(whole_or_nothing(stills))
            folder.mkdir()
            frames = save_stills(images, folder, graph)
        write_clip(target, frames, fps, crf, graph, progress, audio)
        if save_frames:
            facts = {
                "clip": target.name,
                "frames": images.shape[0],
                "fps": str(exact_fps(fps)),
                "width": images.shape[2],
                "height": images.shape[1],
                "crf": crf,
                "stills": f"{stills.name}/{PATTERN}",
                **graph,
            }
            with whole_or_nothing(target.with_suffix(".json")) as note:
                note.write_text(to_json(facts, indent=2), encoding="utf-8")
