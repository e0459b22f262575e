"""The same motion module by our nodes and by AnimateDiff-Evolved's, on one model with one seed.

    python -m sdxl_anime_video.benchmarks.motion_evolved FOLDER  # FOLDER: a checkout of ComfyUI-AnimateDiff-Evolved

A UNet of SDXL's widths and places, with one transformer block at each place that has any, and random weights; random
motion modules, in files as their authors write them; the model's own noise levels; a real ComfyUI on the CPU. Printed
are relative differences |theirs - ours| / |ours - plain| of the latents after some steps: how much of what the module
does is done otherwise. The second line of each format has our arithmetic with every GroupNorm across frames: that it
comes close to theirs shows where the difference lies.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..headless.comfyui import import_comfyui
from ..temporal.layers.motion_module import FORMATS, MotionConfig, MotionModule, Site
from ..temporal.weights.motion.file import save_motion_module
from .motion_parity import across_frames, tiny

WIDTHS = (320, 640, 1280)
FRAMES, SIDE = 8, 8  # of a latent


def random_module(kind: str) -> MotionModule:
    """A module at the published places whose effect is of the order of what it is added to."""
    places = {Site("down", i, j): width for i, width in enumerate(WIDTHS) for j in range(2)}
    places |= {Site("up", i, j): width for i, width in enumerate(reversed(WIDTHS)) for j in range(3)}
    module = MotionModule(MotionConfig(places, kind, 32 if kind == "animatediff" else 24))
    module.reset_parameters()
    for site in module.sites:
        nn.init.normal_(module.site(site).proj_out.weight, std=0.03)
    return module


def measure(peer: Path, base: Path, steps: int) -> list[tuple[str, float]]:
    """(way, difference) for each format."""
    import comfy.sample
    import folder_paths

    from ..temporal.hosts.comfy.layers.motion_module import apply_motion_module
    from ..temporal.hosts.comfy.layers.planned import as_patcher, load_patcher

    sys.path.insert(0, str(peer.parent))
    evolved = importlib.import_module(peer.name).NODE_CLASS_MAPPINGS
    config = tiny.TinyConfig(widths=WIDTHS, depth=(0, 1, 1), res_blocks=2)
    model = tiny.comfy_model(config)
    texts = [tiny.conditioning(config, seed=seed) for seed in (1, 2)]
    folder = base / "models" / "animatediff_models"
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("animatediff_models", str(folder))

    def sample(patched: Any) -> torch.Tensor:
        noise = tiny.latent(FRAMES, SIDE, SIDE)
        with torch.inference_mode():
            blank = torch.zeros_like(noise)
            return comfy.sample.sample(
                patched, noise, steps, 2.0, "euler", "normal", *texts, blank, disable_pbar=True, seed=3
            )

    def theirs(name: str) -> Any:
        loaded = evolved["ADE_LoadAnimateDiffModel"]().load_motion_model(name)[0]
        applied = evolved["ADE_ApplyAnimateDiffModelSimple"]().apply_motion_model(loaded)[0]
        return evolved["ADE_UseEvolvedSampling"]().use_evolved_sampling(model, "use existing", m_models=applied)[0]

    def their_norms(kind: str) -> torch.Tensor:
        """Our arithmetic, with every GroupNorm of the UNet and of the module across frames."""
        module = MotionModule(MotionConfig(made[kind].sites, "animatediff", made[kind].max_frames))
        module.load_state_dict(made[kind].state_dict())
        norms = [layer for layer in model.model.diffusion_model.modules() if isinstance(layer, nn.GroupNorm)]
        with across_frames(norms, FRAMES):
            return sample(apply_motion_module(model, as_patcher(module), 1.0, 0.0, 1.0, "sdxl"))

    plain, rows = sample(model), []
    made = {kind: random_module(kind) for kind in FORMATS}
    for kind in FORMATS:
        path = folder / f"{kind}.safetensors"
        save_motion_module(made[kind], path)
        ours = sample(apply_motion_module(model, load_patcher(path), 1.0, 0.0, 1.0, "sdxl"))
        scale = float((ours - plain).norm())
        other = sample(theirs(path.name))
        rows.append((f"{kind}: theirs beside ours", float((other - ours).norm()) / scale))
        rows.append((f"{kind}: theirs beside ours with their norms", float((other - their_norms(kind)).norm()) / scale))
        rows.append((f"{kind}: what the module does, beside the plain clip", scale / float(plain.norm())))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, help="checkout of ComfyUI-AnimateDiff-Evolved")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    options.peer = options.peer.resolve()
    if not (options.peer / "animatediff").is_dir():
        parser.error(f"{options.peer} is no checkout of ComfyUI-AnimateDiff-Evolved: it has no folder animatediff")
    with tempfile.TemporaryDirectory(prefix="sav-evolved-") as base:
        import_comfyui(Path(base))
        torch.manual_seed(0)
        for name, value in measure(options.peer, Path(base), options.steps):
            sys.stdout.write(f"{value:9.3e}  {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
