"""The authors' own UNets at tiny widths on seeded weights and inputs, and the golden file of what they give.

    python tests/motion_references.py ANIMATEDIFF HOTSHOT_XL     # checkouts; writes tests/data/motion_*.safetensors

ANIMATEDIFF: guoyww/AnimateDiff, branch sdxl; HOTSHOT_XL: hotshotco/Hotshot-XL. Both were written for diffusers of 2023:
names that have moved since are put where their imports look for them, in this process alone.
"""

import sys
import types
import zlib
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import tiny
from sdxl_anime_video.temporal.hosts.diffusers.unet import TemporalUNet, unet_sites
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module, save_motion_module

FRAMES = 4
CLIPS = 2
WIDE = 1280
WIDE_SITE = {
    "animatediff": "down_blocks.2.motion_modules.1.temporal_transformer.",
    "hotshot": "down_blocks.2.temporal_attentions.1.",
}
DATA = Path(__file__).parent / "data"
LENGTHS = {"animatediff": 32, "hotshot": 24}
ENVIRONMENT = {"animatediff": "SAV_ANIMATEDIFF", "hotshot": "SAV_HOTSHOT_XL"}
SOURCE = {
    "animatediff": "guoyww/AnimateDiff@8d191074a10a708d9a8fb4701ffd55a1e1c2f689",
    "hotshot": "hotshotco/Hotshot-XL@cc01f7f82acff985a45f6214152c4a0ba033759f",
}


def seeded(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random values for every key that depend on its name and shape alone: matrices of unit gain, norms around 1."""
    values = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        if len(shape) > 1:
            values[key] = value / value[0].numel() ** 0.5
        else:
            values[key] = value * 0.1 + ("norm" in key and key.endswith("weight"))
    return values


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the state dict."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def spatial_state() -> dict[str, torch.Tensor]:
    """Weights of the tiny UNet under diffusers' names, which the authors kept."""
    return seeded(shapes_of(tiny.diffusers_unet()))


def motion_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights of temporal layers under their authors' names, without position tables, which are not random."""
    kept = {key: shape for key, shape in shapes.items() if "motion_modules" in key or "temporal_attentions" in key}
    return seeded({key: shape for key, shape in kept.items() if ".pos_encoder." not in key})


def unet_inputs() -> dict[str, torch.Tensor]:
    """sample [(b f) 4 h w], text [b 77 c], pooled [b c] and time_ids [b 6]: the clips differ in text, not in size."""
    generator = torch.Generator().manual_seed(11)
    return {
        "sample": torch.randn(CLIPS * FRAMES, 4, 8, 8, generator=generator),
        "text": torch.randn(CLIPS, 77, tiny.TINY.context, generator=generator),
        "pooled": torch.randn(CLIPS, tiny.TINY.pooled, generator=generator),
        "time_ids": torch.full((CLIPS, 6), 64.0),
    }


def wide_input() -> torch.Tensor:
    """[f c h w] for one block of full width."""
    return torch.randn(FRAMES, WIDE, 2, 1, generator=torch.Generator().manual_seed(12))


@torch.no_grad()
def outputs(format: str, folder: str | Path) -> dict[str, torch.Tensor]:
    """What the authors' code gives: "unet" [(b f) 4 h w] and "wide" [f c h w]."""
    unet_class, block = (_animatediff if format == "animatediff" else _hotshot)(Path(folder))
    unet = unet_class()
    unet.load_state_dict({**unet.state_dict(), **spatial_state(), **motion_weights(shapes_of(unet))})
    given = unet_inputs()
    unet_out = unet.eval()(
        given["sample"].unflatten(0, (CLIPS, FRAMES)).transpose(1, 2),
        torch.full((CLIPS,), 400),
        given["text"],
        added_cond_kwargs={"text_embeds": given["pooled"], "time_ids": given["time_ids"]},
        return_dict=False,
    )[0]
    wide = block(WIDE)
    names = {key: WIDE_SITE[format] + key.removeprefix("temporal_transformer.") for key in wide.state_dict()}
    values = motion_weights({names[key]: tuple(value.shape) for key, value in wide.state_dict().items()})
    wide.load_state_dict({key: values.get(name, wide.state_dict()[key]) for key, name in names.items()})
    wide_out = wide.eval()(wide_input()[None].transpose(1, 2))  # [b c f h w]
    return {"unet": unet_out.transpose(1, 2).flatten(0, 1), "wide": wide_out[0].transpose(0, 1)}


def seeded_file(path: Path, channels: dict, format: str) -> MotionModule:
    """A file under the authors' names with the weights that their code was given."""
    module = MotionModule(MotionConfig(channels, format, LENGTHS[format]))
    module.reset_parameters()  # for the position tables
    save_motion_module(module, path)
    state = load_file(path)
    save_file({**state, **motion_weights({k: tuple(v.shape) for k, v in state.items()})}, path)
    return load_motion_module(path)


def ours(unet: torch.nn.Module, format: str, folder: Path) -> dict[str, torch.Tensor]:
    """What our modules give in the place of the authors', by `outputs`' names. folder: for files on the way."""
    site = Site("down", 2, 1)
    wide = seeded_file(folder / "wide.safetensors", {site: WIDE}, format)
    module = seeded_file(folder / "unet.safetensors", channels_of(unet), format)
    with torch.no_grad(), TemporalUNet(unet, module) as motion:
        return {"unet": call(motion), "wide": wide.site(site)(wide_input(), FRAMES)}


@torch.no_grad()
def call(motion: torch.nn.Module) -> torch.Tensor:
    """The output of a TemporalUNet for `unet_inputs()`, [(b f) 4 h w]."""
    given = unet_inputs()
    rows = {name: given[name].repeat_interleave(FRAMES, 0) for name in ("text", "pooled", "time_ids")}
    return motion(
        given["sample"],
        torch.tensor(400),
        rows["text"],
        added_cond_kwargs={"text_embeds": rows["pooled"], "time_ids": rows["time_ids"]},
        return_dict=False,
        num_frames=FRAMES,
    )[0]


def channels_of(unet: torch.nn.Module) -> dict:
    """Sites of the authors' modules in a UNet: neither of them has one in the middle."""
    return {site: width for site, width in unet_sites(unet, MotionModule).items() if site.direction != "mid"}


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """|got - expected| / |expected|."""
    return ((got - expected).norm() / expected.norm()).item()


def _unet_arguments() -> dict:
    config = tiny.TINY.diffusers()
    for name in ("down_block_types", "up_block_types"):
        config[name] = tuple(kind.replace("2D", "3D") for kind in config[name])
    return {**config, "mid_block_type": "UNetMidBlock3DCrossAttn"}


def _moved() -> None:
    """Names of diffusers where these checkouts import them from."""
    import diffusers.loaders
    import diffusers.models.attention as attention
    import diffusers.models.embeddings as embeddings
    import diffusers.models.resnet as resnet
    from diffusers.models import lora, normalization
    from diffusers.models.transformers import transformer_2d

    sys.modules["diffusers.models.transformer_2d"] = transformer_2d
    resnet.LoRACompatibleConv = lora.LoRACompatibleConv
    attention.AdaGroupNorm = normalization.AdaGroupNorm
    embeddings.PositionNet = embeddings.GLIGENTextBoundingboxProjection
    diffusers.loaders.AttnProcsLayers = object  # used by their training alone
    for name in ("FirDownsample2D", "FirUpsample2D", "KDownsample2D", "KUpsample2D"):
        if not hasattr(resnet, name):
            setattr(resnet, name, object)


def _animatediff(folder: Path):
    _moved()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    util = types.ModuleType("animatediff.utils.util")  # theirs imports video writers and pipelines
    util.zero_rank_print = lambda text: None
    sys.modules["animatediff.utils.util"] = util
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    unet = import_module("animatediff.models.unet")
    modules = import_module("animatediff.models.motion_module")
    kwargs = {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
        "temporal_attention_dim_div": 1,
    }  # configs/inference/inference.yaml

    def make():
        return unet.UNet3DConditionModel(
            **_unet_arguments(), use_motion_module=True, motion_module_type="Vanilla", motion_module_kwargs=kwargs
        )

    return make, lambda width: modules.VanillaTemporalModule(width, **kwargs)


def _hotshot(folder: Path):
    _moved()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    unet = import_module("hotshot_xl.models.unet")
    modules = import_module("hotshot_xl.models.transformer_temporal")

    def block(width: int):
        return modules.TransformerTemporal(num_attention_heads=8, attention_head_dim=width // 8, in_channels=width)

    return lambda: unet.UNet3DConditionModel(**_unet_arguments()), block


def main(folders: list[str]) -> None:
    """Write the golden files."""
    DATA.mkdir(exist_ok=True)
    for format, folder in zip(ENVIRONMENT, folders, strict=True):
        given = {name: value.contiguous() for name, value in outputs(format, folder).items()}
        said = {"command": "python tests/motion_references.py ANIMATEDIFF HOTSHOT_XL", "source": SOURCE[format]}
        save_file(given, DATA / f"motion_{format}.safetensors", said)
        (DATA / f"motion_{format}.safetensors").chmod(0o644)


if __name__ == "__main__":
    main(sys.argv[1:])
