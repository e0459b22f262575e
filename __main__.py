"""Command line: `sdxl-anime-video VERB ...`, or `python -m sdxl_anime_video VERB ...`."""

import sys

from .commands.verbs import dispatch

VERBS = {
    "prepare": ("training.prepare.verb:main", "turn videos into a cache of clips to train on"),
    "train": (
        "training.run.verb:main",
        "train a temporal adapter or a motion module on prepared clips or a folder of captioned ones",
    ),
    "render": (
        "rendering.verb:main",
        "render a clip from a checkpoint, an adapter or motion module, and prompts, without ComfyUI",
    ),
    "evaluate": ("rendering.evaluate:main", "measure flicker, warp error, motion and identity drift of clips"),
    "inspect": (
        "temporal.weights.verbs:inspect",
        "say what a temporal adapter, a motion module or a motion LoRA holds",
    ),
    "convert": (
        "temporal.weights.verbs:convert",
        "turn an adapter or motion module by torch.save into safetensors, or into another precision",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    return dispatch(VERBS, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
