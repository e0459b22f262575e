"""Networks that draw hints, out of weights that are at hand: the detectors of the library controlnet-aux.

The library's own loaders ask the hub for files and unpickle whatever they get; here networks are made without weights
and filled from tensors. Its detectors take one picture at a time, so memory does not grow with a clip.
"""

from __future__ import annotations

import colorsys
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .hints import hint_size, resized

State = Mapping[str, torch.Tensor]
Draw = Callable[[np.ndarray], np.ndarray]

FILES = {
    "openpose": "body_pose_model.pth",
    "depth": "dpt_hybrid-midas-501f0c75.pt",
    "lineart": "sk_model.pth",
    "lineart_anime": "netG.pth",
    "softedge": "ControlNetHED.pth",
}
"""The weights that each kind wants, by their published names."""
HAND, FACE = "hand_pose_model.pth", "facenet.pth"


class Detector(torch.nn.Module):
    """Networks that draw one kind of hint, as one module, so that a host can move them."""

    def __init__(self, networks: list[torch.nn.Module], draw: Draw):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        self._draw = draw

    def forward(self, picture: np.ndarray) -> np.ndarray:
        """The hint `[H, W, 3]` of a picture `[H, W, 3]`, both uint8.

        The networks want sides that are multiples of 64: another size is scaled to the nearest, and its hint back.
        """
        height, width = picture.shape[:2]
        fitting = hint_size(height, width, min(height, width))
        with torch.no_grad():
            return resized(self._draw(resized(picture, *fitting)), height, width)


def files_of(kind: str, hand: bool = False, face: bool = False) -> tuple[str, ...]:
    """Names of the files of weights that a kind wants; none for one that needs no weights."""
    if kind not in FILES:
        return ()
    pose = kind == "openpose"
    return (FILES[kind], *([HAND] if pose and hand else []), *([FACE] if pose and face else []))


def build(kind: str, states: Mapping[str, State]) -> Detector:
    """The detector of a kind, float32 on the CPU. states: name of each file of `files_of` -> its tensors.

    Raises ValueError that names the file whose tensors are of another network, or no numbers, and ModuleNotFoundError
    if the library is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mapping deprecated model name")  # MiDaS's backbone, in timm
        return _BUILDERS[kind](states)


def _openpose(states: Mapping[str, State]) -> Detector:
    library, networks = _library("open_pose"), []

    def estimator(part: str, kind: str, network: torch.nn.Module, name: str, prefixed: bool = True):
        if name not in states:
            return None
        made = object.__new__(getattr(_library(f"open_pose.{part}"), kind))  # its __init__ would unpickle a file
        # The published names of body and hand lack the network's first level.
        made.model = _filled(network, states[name], name, (lambda key: key.split(".", 1)[1]) if prefixed else str)
        networks.append(made.model)
        return made

    models = _library("open_pose.model")
    detector = library.OpenposeDetector(
        estimator("body", "Body", models.bodypose_model(), FILES["openpose"]),
        estimator("hand", "Hand", models.handpose_model(), HAND),
        estimator("face", "Face", _library("open_pose.face").FaceNet(), FACE, prefixed=False),
    )
    tools = library.util

    def draw(picture: np.ndarray) -> np.ndarray:
        canvas = np.zeros_like(picture)
        for pose in detector.detect_poses(picture, include_hand=HAND in states, include_face=FACE in states):
            canvas = tools.draw_bodypose(canvas, pose.body.keypoints)
            for hand in (pose.left_hand, pose.right_hand):
                _draw_hand(canvas, hand or [])
            canvas = tools.draw_facepose(canvas, pose.face)
        return canvas

    return Detector(networks, draw)


def _draw_hand(canvas: np.ndarray, joints: list) -> None:
    """A hand of 21 joints into a picture, to the pixel as the library does, which wants matplotlib for its colours.

    joints: the wrist, then four for each finger, with x and y from 0 to 1; below 0 where one was not found.
    """
    import cv2

    height, width = canvas.shape[:2]
    at = [(int(joint.x * width), int(joint.y * height)) for joint in joints]
    bones = [(0 if bone % 4 == 0 else bone, bone + 1) for bone in range(len(at) - 1)]
    for number, (start, end) in enumerate(bones):
        if min(*at[start], *at[end]) > 0:
            colour = [255 * part for part in colorsys.hsv_to_rgb(number / len(bones), 1, 1)]
            cv2.line(canvas, at[start], at[end], colour, thickness=2)
    for point in at:
        if min(point) > 0:
            cv2.circle(canvas, point, 4, (0, 0, 255), thickness=-1)


def _depth(states: Mapping[str, State]) -> Detector:
    network = _library("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
    network.pretrained.model.head = torch.nn.Identity()  # the backbone's classifier, which depth does not use
    _filled(network, states[FILES["depth"]], FILES["depth"])
    whole = _whole(_library("midas").MidasDetector(network))

    def draw(picture: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(invalid="ignore"):  # a picture without any depth is 0 / 0, drawn black
                return whole(picture)
        finally:
            network.pretrained.activations.clear()  # of the whole process, and would stay on the device

    return Detector([network], draw)


def _lineart(states: Mapping[str, State]) -> Detector:
    library, name = _library("lineart"), FILES["lineart"]
    network = _filled(library.Generator(3, 1, 3), states[name], name)
    return Detector([network], _whole(library.LineartDetector(network, None)))


def _lineart_anime(states: Mapping[str, State]) -> Detector:
    from functools import partial

    library, name = _library("lineart_anime"), FILES["lineart_anime"]
    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    state = {key.replace("module.", ""): value for key, value in states[name].items()}
    network = _filled(library.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False), state, name)
    return Detector([network], _whole(library.LineartAnimeDetector(network)))


def _softedge(states: Mapping[str, State]) -> Detector:
    library, name = _library("hed"), FILES["softedge"]
    network = _filled(library.ControlNetHED_Apache2(), states[name], name)
    return Detector([network], _whole(library.HEDdetector(network)))


_BUILDERS: dict[str, Callable[[Mapping[str, State]], Detector]] = {
    "openpose": _openpose,
    "depth": _depth,
    "lineart": _lineart,
    "lineart_anime": _lineart_anime,
    "softedge": _softedge,
}


def _whole(detector: Any) -> Draw:
    """A detector of the library at the size of the picture, whose sides are multiples of 64."""

    def draw(picture: np.ndarray) -> np.ndarray:
        size = min(picture.shape[:2])
        return detector(picture, detect_resolution=size, image_resolution=size, output_type="np")

    return draw


def _filled(
    network: torch.nn.Module, state: State, name: str, published: Callable[[str], str] = str
) -> torch.nn.Module:
    """`network` with the tensors of a file. published: our name of a tensor -> the file's.

    Raises ValueError that names the file, if tensors are missing, of other shapes, or hold what is no number.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = [published(key) for key, shape in wanted.items() if tuple(_shape(state.get(published(key)))) != shape]
    if wrong:
        raise ValueError(
            f"{name} is of another network: {len(wrong)} of {len(wanted)} tensors are missing or of another shape, "
            f"the first {wrong[0]}"
        )
    broken = [published(key) for key in wanted if not state[published(key)].isfinite().all()]
    if broken:
        raise ValueError(f"{name} is damaged: {broken[0]} holds what is no number")
    network.load_state_dict({key: state[published(key)] for key in wanted}, assign=True)
    return network.float().eval().requires_grad_(False)


def _shape(value: torch.Tensor | None) -> tuple[int, ...]:
    return (-1,) if value is None else tuple(value.shape)


def _library(name: str) -> ModuleType:
    """One module of controlnet_aux, without the package's `__init__`.

    That imports all 18 detectors: it prints warnings about those that we do not use, puts models of its own into timm's
    registry, and fails beside MediaPipe 0.10.30 and newer. So the package's folder goes by a name of ours.
    """
    package = f"{__package__}._controlnet_aux"
    if package not in sys.modules:
        spec = find_spec("controlnet_aux")
        if spec is None:
            raise ModuleNotFoundError(
                "the Python package controlnet-aux is not installed; run `pip install -r requirements.txt` in this "
                "pack's folder, with ComfyUI's own Python",
                name="controlnet_aux",
            )
        module = ModuleType(package)
        module.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[package] = module
    return import_module(f"{package}.{name}")
