"""SDXL from one safetensors file, as ComfyUI users have it, without the network.

What such a file holds is named after the code that SDXL was published with; diffusers knows how those names map onto
its own. What it would fetch from the hub lies beside this file in `sdxl/`: the configuration of each part, and the
tokenizer that both text encoders share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...weights.header import Header, WeightsFileError, read_header
from ...weights.known_files import recognise

CONFIGS = Path(__file__).parent / "sdxl"
"""The layout of a diffusers pipeline folder, without weights."""

MODULES = ("unet", "vae", "text_encoder", "text_encoder_2")
_UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
_PARTS = {
    "UNet": _UNET_IN,
    "VAE": "first_stage_model.decoder.conv_in.weight",
    "text encoder CLIP-L": "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "text encoder CLIP-G": "conditioner.embedders.1.model.token_embedding.weight",
}
_REFINER = "conditioner.embedders.0.model.token_embedding.weight"
_OTHER_SAMPLING = ("edm_mean", "edm_vpred.sigma_max")  # noise levels of their own: Playground 2.5, CosXL
_WANTED = "give the file of an SDXL base model, or a diffusers folder"


@dataclass(frozen=True)
class Sampling:
    """What a checkpoint predicts, the ends of its noise schedule, and how one can tell."""

    prediction: str
    zero_snr: bool
    why: str

    def __str__(self) -> str:
        return f"{self.prediction}{' with zero terminal SNR' if self.zero_snr else ''} ({self.why})"


def read_sampling(header: Header) -> Sampling:
    """As ComfyUI does, by the keys `v_pred` and `ztsnr`; where they are missing, by the modelspec metadata."""
    said, zero_snr = header.metadata.get("modelspec.prediction_type", ""), "ztsnr" in header.tensors
    if "v_pred" in header.tensors:
        return Sampling("v_prediction", zero_snr, "key v_pred" + (" and ztsnr" if zero_snr else ""))
    why = f"metadata modelspec.prediction_type={said}" if said else "no key v_pred"
    return Sampling("v_prediction", zero_snr, why) if said.startswith("v") else Sampling("epsilon", False, why)


def check_checkpoint(path: Path) -> Sampling:
    """Decide from the header alone that a file is a whole SDXL base model.

    Raises ValueError that says what the file is instead and what to do.
    """
    try:
        header = read_header(path)
    except WeightsFileError as error:
        convert = (
            " A pickle can run programs when it is read: load it in ComfyUI and save it with CheckpointSave."
            if error.pickle
            else ""
        )
        raise ValueError(f"base: {path} {error}{convert}") from None
    if problem := _what_is_wrong(header):
        raise ValueError(f"base: {path} {problem}")
    return read_sampling(header)


def _what_is_wrong(header: Header) -> str | None:
    tensors = header.tensors
    if _REFINER in tensors:
        return f"is SDXL's refiner, which draws no picture from the start; {_WANTED}"
    if any(key.startswith("cond_stage_model.") for key in tensors):
        return f"is a Stable Diffusion 1 or 2 checkpoint, not SDXL; {_WANTED}"
    if odd := [key for key in _OTHER_SAMPLING if key in tensors]:
        return f"has noise levels of another kind (key {odd[0]}: EDM); {_WANTED}"
    missing = [part for part, key in _PARTS.items() if key not in tensors]
    kind = recognise(tensors)
    if len(missing) == len(_PARTS) or (kind and "LoRA" in kind.what):
        return f"is {kind.what if kind else 'no model known here'}, not an SDXL checkpoint; {_WANTED}"
    if missing:
        return f"has no {', no '.join(missing)}; give a whole checkpoint (ComfyUI's CheckpointSave joins the parts)"
    channels = tensors[_UNET_IN].shape[1]
    if channels != 4:
        kind = "an inpainting model" if channels == 9 else "an image editing model"
        return f"is {kind}: its UNet takes {channels} channels, not 4; {_WANTED}"
    return None


def load_single_file(path: Path, configs: Path = CONFIGS, dtype: Any = None) -> tuple[Any, Sampling]:
    """A diffusers StableDiffusionXLPipeline on the CPU in fp32, its UNet in `dtype`, and what that predicts.

    configs: a folder laid out as `CONFIGS`, for models of SDXL's kind in other sizes.

    Raises ValueError for a file that is no whole SDXL checkpoint, naming what it is or which tensors are missing.
    """
    import accelerate  # noqa: F401  without it diffusers would fill what a file lacks with random values
    import diffusers
    import torch
    from transformers import CLIPTokenizer

    sampling = check_checkpoint(path)
    words = {"local_files_only": True, "model_max_length": 77}
    tokenizer = CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", **words)
    tokenizer_2 = CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token="!", **words)
    try:
        pipe: Any = diffusers.StableDiffusionXLPipeline.from_single_file(
            str(path),
            config=str(configs),
            local_files_only=True,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            add_watermarker=False,
        )
    except (ValueError, KeyError, RuntimeError) as error:
        # Modules are built without values and then filled; what was not filled cannot be placed.
        why = "layers are missing" if "meta tensor" in str(error) else " ".join(str(error).split())[:200]
        raise ValueError(
            f"base: {path} does not have SDXL's layers: {why}; {_WANTED} (a distilled one will not do)"
        ) from None
    if missing := _missing(pipe):
        raise ValueError(f"base: {path} lacks {len(missing)} of SDXL's tensors, such as {missing[0]}; {_WANTED}")
    for part in MODULES:  # past diffusers' own `to`, which warns of nothing
        torch.nn.Module.to(getattr(pipe, part), dtype if part == "unet" and dtype else torch.float32)
    zero_snr = {"rescale_betas_zero_snr": True} if sampling.zero_snr else {}
    pipe.scheduler.register_to_config(prediction_type=sampling.prediction, **zero_snr)
    return pipe, sampling


def _missing(pipe: Any) -> list[str]:
    """Parameters that the file had no value for."""
    return [
        f"{part}.{name}" for part in MODULES for name, value in getattr(pipe, part).named_parameters() if value.is_meta
    ]
