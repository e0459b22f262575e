"""Kinds of weights that end up in the wrong folder, recognised by their keys."""

import re
from collections.abc import Collection
from typing import NamedTuple


class KnownFile(NamedTuple):
    """A kind of file. what: its name with the article; remedy: a sentence that says what to do with the file."""

    what: str
    remedy: str


_MOTION = "Move it to models/animatediff_models and load it with Load Motion Module."
# In this order; the first pattern that matches one of the keys decides.
_KINDS = (
    (
        r"motion_modules.*lora|temporal.*\.lora|lora.*motion_modules",
        "a motion LoRA of AnimateDiff",
        "Move it to models/animatediff_motion_lora and load it with Motion LoRA.",
    ),
    (
        r"(^|\.)lora_(unet|te\d?|transformer)_|\.lora_(A|B|up|down)\.|lora_linear_layer|[._]lora\.(up|down)\."
        r"|\.hada_w1|\.lokr_w1|\.oft_blocks|\.dora_scale",
        "a LoRA",
        "Move it to models/loras and load it with LoraLoader.",
    ),
    (
        r"^control_model\.|^controlnet_|^input_hint_block|^zero_convs|^lllite_|^nnet\.",
        "a ControlNet",
        "Move it to models/controlnet and load it with ControlNetLoader.",
    ),
    (r"motion_modules\.\d+\.temporal_transformer\.", "an AnimateDiff motion module", _MOTION),
    (r"(^|\.)motion_modules\.\d+\.", "a MotionAdapter of diffusers, which is a motion module", _MOTION),
    (r"\.temporal_attentions\.\d+\.", "Hotshot-XL's temporal layers, which are a motion module", _MOTION),
    (
        r"^image_proj\.|^ip_adapter\.|^image_proj_model\.",
        "an IP-Adapter",
        "Move it to models/ipadapter and load it with its own nodes.",
    ),
    (
        r"^first_stage_model\.|^cond_stage_model\.|^conditioner\.",
        "a full checkpoint",
        "Move it to models/checkpoints and load it with CheckpointLoaderSimple.",
    ),
    (
        r"^vae\.(encoder|decoder)\.",  # a VAE under a prefix stands beside other parts
        "a full checkpoint of UNet, text encoders and VAE",
        "Load it with its own loader; an adapter is a separate file.",
    ),
    (
        r"^(model\.)?diffusion_model\.|^(input|output)_blocks\.\d|^(down|up)_blocks\.\d+\.resnets\."
        r"|^(down|up)_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.|^time_embedding\.|_blocks\.0\.img_",
        "a diffusion model (a UNet or transformer) on its own",
        "Move it to models/diffusion_models and load it with UNETLoader.",
    ),
    (
        r"^(encoder|decoder)\.(conv_in|conv_out|mid|down|up|mid_block|down_blocks|up_blocks)\b|^(post_)?quant_conv\.",
        "a VAE",
        "Move it to models/vae and load it with VAELoader.",
    ),
    (
        r"text_model\.encoder\.|text_model\.embeddings\.|^transformer\.resblocks\.|^shared\.weight$|^model\.layers\.\d",
        "a text encoder",
        "Move it to models/text_encoders and load it with CLIPLoader.",
    ),
    (
        r"^(clip_l|clip_g|emb_params|string_to_param)$",
        "a textual inversion embedding",
        "Move it to models/embeddings and name it in the prompt.",
    ),
)


def recognise(keys: Collection[str]) -> KnownFile | None:
    """Return the kind of file that has these keys, None if unknown."""
    found = (KnownFile(what, remedy) for pattern, what, remedy in _KINDS if any(re.search(pattern, k) for k in keys))
    return next(found, None)
