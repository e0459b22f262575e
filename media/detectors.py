"""Networks that draw hints: the detectors of the library controlnet-aux, with weights that are given.

The library's own loaders download files and unpickle them. Here networks are built without weights and filled from
tensors. Its detectors take one picture at a time, so memory does not grow with a clip.
"""

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
"""The file of weights of each kind, by its published name."""
HAND, FACE = "hand_pose_model.pth", "facenet.pth"


class Detector(torch.nn.Module):
    """The networks of one kind of hint as one module, which a host can move between devices."""

    def __init__(self, networks: list[torch.nn.Module], draw: Draw):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        self._draw = draw

    def forward(self, picture: np.ndarray) -> np.ndarray:
        """Return the hint `[H, W, 3]` of a picture `[H, W, 3]`, both uint8.

        The networks need sides that are multiples of 64: other sizes are scaled to the nearest, and the hint back.
        """
        height, width = picture.shape[:2]
        fitting = hint_size(height, width, min(height, width))
        with torch.no_grad():
            return resized(self._draw(resized(picture, *fitting)), height, width)


def files_of(kind: str, hand: bool = False, face: bool = False) -> tuple[str, ...]:
    """Return the names of the files of weights that a kind needs."""
    if kind not in FILES:
        return ()
    pose = kind == "openpose"
    return (FILES[kind], *([HAND] if pose and hand else []), *([FACE] if pose and face else []))


def build(kind: str, states: Mapping[str, State]) -> Detector:
    """Return the detector of a kind, float32 on the CPU. states: name of each file of `files_of` -> its tensors.

    Raises ValueError that names a file with tensors of another network or values that are not finite, and
    ModuleNotFoundError if the library is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mapping deprecated model name")  # MiDaS's backbone, in timm
        return _BUILDERS[kind](states)


def _openpose(states: Mapping[str, State]) -> Detector:
    library, networks = library_module("open_pose"), []

    def estimator(part: str, kind: str, network: torch.nn.Module, name: str, prefixed: bool = True):
        if name not in states:
            return None
        made = object.__new__(getattr(library_module(f"open_pose.{part}"), kind))  # its __init__ would unpickle a file
        # The published names of body and hand lack the network's first level.
        made.model = _filled(network, states[name], name, (lambda key: key.split(".", 1)[1]) if prefixed else str)
        networks.append(made.model)
        return made

    models = library_module("open_pose.model")
    detector = library.OpenposeDetector(
        estimator("body", "Body", models.bodypose_model(), FILES["openpose"]),
        estimator("hand", "Hand", models.handpose_model(), HAND),
        estimator("face", "Face", library_module("open_pose.face").FaceNet(), FACE, prefixed=False),
    )
    tools = library.util

    def draw(picture: np.ndarray) -> np.ndarray:
        canvas = np.zeros_like(picture)
        for pose in detector.detect_poses(picture, include_hand=HAND in states, include_face=FACE in states):
            canvas = tools.draw_bodypose(canvas, pose.body.keypoints)
            for hand in (pose.left_hand, pose.right_hand):
                draw_hand(canvas, hand or [])
            canvas = tools.draw_facepose(canvas, pose.face)
        return canvas

    return Detector(networks, draw)


def draw_hand(canvas: np.ndarray, joints: list) -> None:
    """Draw a hand of 21 joints into a picture, pixel for pixel as the library does, but without matplotlib.

    joints: the wrist, then four for each finger, with x and y from 0 to 1; below 0 for a joint that is not found.
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
    network = library_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
    network.pretrained.model.head = torch.nn.Identity()  # the backbone's classifier, which depth does not use
    _filled(network, states[FILES["depth"]], FILES["depth"])
    whole = _whole(library_module("midas").MidasDetector(network))

    def draw(picture: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(invalid="ignore"):  # a picture of constant depth is 0 / 0 and drawn black
                return whole(picture)
        finally:
            network.pretrained.activations.clear()  # a global of the library that would keep them on the device

    return Detector([network], draw)


def _lineart(states: Mapping[str, State]) -> Detector:
    library, name = library_module("lineart"), FILES["lineart"]
    network = _filled(library.Generator(3, 1, 3), states[name], name)
    return Detector([network], _whole(library.LineartDetector(network, None)))


def _lineart_anime(states: Mapping[str, State]) -> Detector:
    from functools import partial

    library, name = library_module("lineart_anime"), FILES["lineart_anime"]
    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    state = {key.replace("module.", ""): value for key, value in states[name].items()}
    network = _filled(library.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False), state, name)
    return Detector([network], _whole(library.LineartAnimeDetector(network)))


def _softedge(states: Mapping[str, State]) -> Detector:
    library, name = library_module("hed"), FILES["softedge"]
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
    """Return a function that runs a detector of the library at the picture's own size, a multiple of 64."""

    def draw(picture: np.ndarray) -> np.ndarray:
        size = min(picture.shape[:2])
        return detector(picture, detect_resolution=size, image_resolution=size, output_type="np")

    return draw


def _filled(
    network: torch.nn.Module, state: State, name: str, published: Callable[[str], str] = str
) -> torch.nn.Module:
    """Return `network` filled with the tensors of a file. published: our name of a tensor -> the file's.

    Raises ValueError that names the file if tensors are missing, of other shapes, or not finite.
    """
    wanted = network.state_dict()
    given = {key: state.get(published(key)) for key in wanted}
    if wrong := [published(key) for key, value in given.items() if value is None or value.shape != wanted[key].shape]:
        raise ValueError(
            f"{name} is of another network: {len(wrong)} of {len(wanted)} tensors are missing or of another shape, "
            f"the first {wrong[0]}; download it again"
        )
    if broken := [published(key) for key, value in given.items() if not value.isfinite().all()]:
        raise ValueError(f"{name} is damaged: {broken[0]} holds NaN or infinite values; download it again")
    network.load_state_dict(given, assign=True)
    return network.float().eval().requires_grad_(False)


def library_module(name: str) -> ModuleType:
    """Return a module of controlnet_aux without running the package's `__init__`.

    That imports all 18 detectors, prints warnings about the ones that we do not use, adds models to timm's registry,
    and fails beside MediaPipe 0.10.30 and newer. So the package's folder is imported under a name of ours.
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
