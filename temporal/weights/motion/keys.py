"""Keys of motion module files: the published layouts, one naming for all, and refusal of other files.

The names inside are those of AnimateDiff without its `temporal_transformer`: `<diffusers path of the site>.norm`,
`.proj_in`, `.transformer_blocks.N.attention_blocks.M.to_q` and so on, as `MotionModule.state_dict()` has them.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ...layers.motion_module import MotionConfig, MotionModule, Site
from ..adapter_format import is_adapter_key
from ..header import WeightsFileError
from ..known_files import recognise
from ..listing import listed

Shapes = Mapping[str, tuple[int, ...]]
MOST = 16
"""Most transformer blocks of a site, and most attentions of a block."""
SD15_WIDTHS = {0: 320, 1: 640, 2: 1280, 3: 1280}
SD15 = (
    "Motion modules for SDXL are mm_sdxl_v10_beta of AnimateDiff and the temporal layers of Hotshot-XL, or one that "
    "you trained."
)
_PREFIX = re.compile(r"^(?:(?:module|unet|base_model|model|diffusion_model|motion_adapter|motion_module|_orig_mod)\.)+")
_KEY = re.compile(
    r"(?:(down|up)_blocks\.(\d{1,4})|mid_block)\.(motion_modules|temporal_attentions)\.(\d{1,4})\.(temporal_transformer\.)?(.+)"
)
# Layers of the UNet that training checkpoints hold beside the motion module.
_UNET = re.compile(
    r"(conv_in|conv_out|conv_norm_out|time_embedding|add_embedding)\.\w"
    r"|((down|up)_blocks\.\d+|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.\d"
)


@dataclass(frozen=True)
class Layout:
    """The names of one publisher.

    title: for messages; format: a key of `layers.motion_module.FORMATS`
    names: (pattern, replacements) from its parts of a site to ours; a key with two replacements becomes two keys
    """

    title: str
    format: str
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def ours(self, part: str) -> list[str]:
        """Return our names of a part of a site."""
        for pattern, replacements in self.names:
            if re.search(pattern, part):
                return [re.sub(pattern, replacement, part) for replacement in replacements]
        return [part]


_BLOCK = r"^(transformer_blocks\.\d+)"
# by (name of the list of modules, whether `temporal_transformer` follows)
LAYOUTS = {
    ("motion_modules", True): Layout("AnimateDiff-SDXL (mm_sdxl_v10_beta's layout)", "animatediff"),
    ("motion_modules", False): Layout(
        "AnimateDiff-SDXL (diffusers MotionAdapter's layout)",
        "animatediff",
        (
            (
                rf"{_BLOCK}\.pos_embed\.pe$",
                (r"\1.attention_blocks.0.pos_encoder.pe", r"\1.attention_blocks.1.pos_encoder.pe"),
            ),
            (rf"{_BLOCK}\.attn1\.", (r"\1.attention_blocks.0.",)),
            (rf"{_BLOCK}\.attn2\.", (r"\1.attention_blocks.1.",)),
            (rf"{_BLOCK}\.norm1\.", (r"\1.norms.0.",)),
            (rf"{_BLOCK}\.norm2\.", (r"\1.norms.1.",)),
            (rf"{_BLOCK}\.norm3\.", (r"\1.ff_norm.",)),
        ),
    ),
    ("temporal_attentions", False): Layout(
        "Hotshot-XL (temporal layers)", "hotshot", ((r"\.pos_encoder\.positional_encoding$", (".pos_encoder.pe",)),)
    ),
}


def split_key(key: str) -> tuple[tuple[str, bool], Site, str] | None:
    """Return (key of LAYOUTS, site, part) of a motion module's key, with or without a wrapper's prefix; else None."""
    match = _KEY.fullmatch(_PREFIX.sub("", key))
    if match is None:
        return None
    direction, block, modules, layer, transformer, part = match.groups()
    return (modules, bool(transformer)), Site(direction or "mid", int(block or 0), int(layer)), part


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    config: of the module; layout: of its keys; names: its key -> ours; aside: keys of a UNet beside the module
    """

    config: MotionConfig
    layout: Layout
    names: Mapping[str, tuple[str, ...]]
    aside: tuple[str, ...]


def read_contents(
    shapes: Shapes, heads: int = 8, groups: int = 32, betas: tuple[float, float] | None = None
) -> Contents:
    """Return the layout of these keys and the module that they make. heads, groups, betas: as for MotionConfig.

    Raises WeightsFileError, naming the problem, for anything but a whole motion module of SDXL's family.
    """
    split = {key: place for key in shapes if (place := split_key(key))}
    others = [key for key in shapes if key not in split]
    if not split:
        kind = another_kind(others, "a motion module")
        raise WeightsFileError(
            kind or f"has no key of a motion module (its keys: {listed(others) or 'none at all'}). {SD15}"
        )
    kinds = Counter(kind for kind, _, _ in split.values())
    if len(kinds) > 1 or next(iter(kinds)) not in LAYOUTS:
        raise WeightsFileError(f"mixes the names of several layouts: {listed(split)}. Download or export it again.")
    layout = LAYOUTS[next(iter(kinds))]
    if any("lora" in part for _, _, part in split.values()):
        raise WeightsFileError("is a motion LoRA, not a motion module. Load it with Motion LoRA.")

    names: dict[str, tuple[str, ...]] = {}
    found: dict[str, tuple[int, ...]] = {}
    problems = [f"unexpected key {key}" for key in others if not _UNET.match(_PREFIX.sub("", key))]
    for key, (_, site, part) in split.items():
        names[key] = tuple(f"{site.path}.{ours}" for ours in layout.ours(part))
        if any(name in found for name in names[key]):
            problems.append(f"{key} is there twice")
        found.update(dict.fromkeys(names[key], tuple(shapes[key])))
    sites = sorted({site for _, site, _ in split.values()})  # down, mid, up
    widths = {site: _width(site, found) for site in sites}
    _refuse_sd15(widths, found)
    config = _config(widths, layout, found, heads, groups, betas)
    problems += _differences(config, found, {ours: key for key, all_ours in names.items() for ours in all_ours})
    if problems:
        logging.debug("a motion module does not hold together: %s", "; ".join(problems))
        raise WeightsFileError(
            f"is {layout.title}, but does not hold together: {listed(problems, '; ')}. Download or export it again."
        )
    return Contents(config, layout, names, tuple(others))


def another_kind(keys: Collection[str], wanted: str) -> str | None:
    """Return a message that names the kind of a file without any wanted key ("a motion module"), None if unknown."""
    if any(map(is_adapter_key, keys)):
        return (
            f"is a temporal adapter, not {wanted}. Move it to models/temporal_adapters and load it with "
            "Load Temporal Adapter."
        )
    kind = recognise(keys)
    return f"is {kind.what}, not {wanted}. {kind.remedy}" if kind else None


def _refuse_sd15(widths: Mapping[Site, int], found: Shapes) -> None:
    """Raise WeightsFileError for a module of Stable Diffusion 1.5, whose UNet has a fourth level."""
    down = {site.block: width for site, width in widths.items() if site.direction == "down"}
    if down != SD15_WIDTHS:
        return
    length = max((shape[1] for name, shape in found.items() if name.endswith(".pe") and len(shape) == 3), default=0)
    middle = any(site.direction == "mid" for site in widths)
    which = "mm_sd_v15_v2" if middle else "mm_sd_v14 and mm_sd_v15" if length == 24 else "v3_sd15_mm"
    raise WeightsFileError(
        f"is a motion module for Stable Diffusion 1.5 (four levels of 320, 640, 1280 and 1280 channels, as {which}), "
        f"which does not fit SDXL's UNet of three. {SD15}"
    )


def _width(site: Site, found: Shapes) -> int:
    """Return the channels of a site by its first tensor of sound rank, 0 if it has none."""
    ranks = {"norm.weight": 1, "proj_out.bias": 1, "proj_out.weight": 2, "proj_in.weight": 2}
    shapes = ((found.get(f"{site.path}.{part}", ()), rank) for part, rank in ranks.items())
    return next((shape[0] for shape, rank in shapes if len(shape) == rank), 0)


def _config(
    widths: dict[Site, int], layout: Layout, found: Shapes, heads: int, groups: int, betas: tuple[float, float] | None
) -> MotionConfig:
    """Return the config of the module that the tensors belong to."""
    lengths = Counter(shape[1] for name, shape in found.items() if name.endswith(".pe") and len(shape) == 3)
    odd = [f"{site.path} of {width}" for site, width in widths.items() if not width or width % heads or width % groups]
    if odd:
        raise WeightsFileError(
            f"is {layout.title} with channels that {heads} heads and {groups} groups of the norm do not divide: "
            f"{listed(odd)}. Download or export it again."
        )
    if lengths and not all(lengths):
        raise WeightsFileError(f"is {layout.title} whose position tables are empty. Download or export it again.")
    return MotionConfig(
        sites=widths,
        format=layout.format,
        max_frames=max(lengths, key=lambda length: lengths[length], default=1),
        heads=heads,
        groups=groups,
        blocks=_count(r"\.transformer_blocks\.(\d{1,4})\.", found),
        attentions=_count(r"\.attention_blocks\.(\d{1,4})\.", found),
        betas=betas,
    )


def _count(pattern: str, names: Iterable[str]) -> int:
    """Return the length of a list by its highest index, MOST at most, so that a wrong index costs no memory."""
    return min(max((int(match[1]) for name in names if (match := re.search(pattern, name))), default=0) + 1, MOST)


def _differences(config: MotionConfig, found: Shapes, origin: Mapping[str, str]) -> list[str]:
    """Return the keys that are missing, unexpected or misshapen. origin: our name -> the file's."""
    expected = {name: tuple(value.shape) for name, value in MotionModule(config, device="meta").state_dict().items()}
    problems = [f"missing key {name}" for name in expected if name not in found]
    for name, shape in found.items():
        if name not in expected:
            problems.append(f"unexpected key {origin[name]}")
        elif shape != expected[name]:
            problems.append(f"wrong shape {list(shape)} of {origin[name]} ({list(expected[name])} is right)")
    return list(dict.fromkeys(problems))
