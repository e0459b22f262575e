"""Files of the hint networks as they are published, but with random weights: names, layout and shapes are the same.

Published at huggingface.co/lllyasviel/Annotators, read as controlnet-aux 0.0.10 does: the body's and hand's names lack
the network's first level, netG.pth was saved from several GPUs, MiDaS keeps its backbone's classifier.
"""

import warnings
from functools import partial
from pathlib import Path

import torch

from sdxl_anime_video.media.detectors import FACE, FILES, HAND, library_module

SEED = 1  # with it, the random pose network sees people in `clips.painted`


def state(name: str) -> dict[str, torch.Tensor]:
    """The tensors of one published file."""
    torch.manual_seed(SEED)
    network = _networks()[name]()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 4:
                weight.mul_(6**0.5)  # from torch's own start to He's, so that a signal comes through
            elif name == FILES["openpose"]:
                weight.zero_()
    tensors = network.state_dict()
    if name in (FILES["openpose"], HAND):
        return {key.split(".", 1)[1]: value for key, value in tensors.items()}
    if name == FILES["lineart_anime"]:
        return {f"module.{key}": value for key, value in tensors.items()}
    return dict(tensors)


def write(folder: Path, *names: str) -> None:
    """The files of these names, in half precision, as HED's is published: the others are too large for a test."""
    for name in names:
        torch.save({key: value.half() for key, value in state(name).items()}, folder / name)


def _networks():
    pose = library_module("open_pose.model")
    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return {
        FILES["openpose"]: pose.bodypose_model,
        HAND: pose.handpose_model,
        FACE: library_module("open_pose.face").FaceNet,
        FILES["depth"]: _midas,
        FILES["lineart"]: partial(library_module("lineart").Generator, 3, 1, 3),
        FILES["lineart_anime"]: partial(library_module("lineart_anime").UnetGenerator, 3, 1, 8, 64, norm_layer=norm),
        FILES["softedge"]: library_module("hed").ControlNetHED_Apache2,
    }


def _midas():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
