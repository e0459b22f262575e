"""Keyframes that hold a clip together, for any sampler."""

from ..temporal.clip.contract import Pin, Pull
from ..temporal.clip.frames import Places, parse_positions
from ..temporal.hosts.comfy.sampling.wrapper import record
from . import _shared as shared
from ._api import io


class KeyframeAnchor(io.ComfyNode):
    """Records pinned frames, or a pull toward the first frame, on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_KeyframeAnchor",
            display_name="Keyframe Anchor",
            category="SDXL Anime Video/sampling",
            description="Keeps a clip from drifting. With a latent: its frames are pinned into the clip and the others "
            "are sampled around them. Without: every Nth frame is pulled toward the first.",
            inputs=[
                io.Model.Input("model", tooltip="The model to be sampled."),
                io.Int.Input(
                    "every",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="Distance of the anchored frames: 0, every, 2 x every and so on. Not used if positions "
                    "are given.",
                ),
                shared.share_input(
                    "strength",
                    1.0,
                    "0 changes nothing. Pinned frames: 1 keeps the given latent exactly, less lets it change. Without "
                    "a latent: share of the first frame in the anchored frames' prediction at each step.",
                ),
                io.Combo.Input(
                    "band",
                    options=["low", "all"],
                    default="low",
                    tooltip="Without a latent. low: only slow variation over the picture moves toward the first frame, "
                    "so colour and identity hold while motion goes on. all: the whole frame moves, and at strength 1 "
                    "it repeats the first.",
                ),
                *shared.percent_inputs("anchoring"),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Frames to pin, VAE-encoded at the clip's size: one for each anchored frame in order, or a "
                    "whole clip, of which the anchored frames are used. A single start image goes to frame 0.",
                ),
                io.String.Input(
                    "positions",
                    default="",
                    optional=True,
                    tooltip="Anchored frames, instead of every: frame numbers or percentages with commas, such as "
                    "0, 25%, -1 (-1 is the last frame). First and last image: 0, -1.",
                ),
            ],
            outputs=shared.patched_model("with anchored frames"),
        )

    @shared.named_classmethod
    def execute(
        cls, model, every, strength, band, start_percent, end_percent, latent=None, positions=""
    ) -> io.NodeOutput:
        shared.check_percents(start_percent, end_percent)
        shared.check_between("strength", strength, 0, 1)
        shared.check_at_least("every", every, 1)
        places = Places(every, parse_positions(positions))
        if strength == 0:
            return io.NodeOutput(model)
        if latent is None:
            pull = Pull(places, strength, band, start_percent, end_percent)
            return io.NodeOutput(record(model, lambda contract: contract.with_pull(pull)))
        samples = latent["samples"]
        if samples.ndim != 4 or 0 in samples.shape:
            raise ValueError(
                f"the given latent is {list(samples.shape)}, not [frames, channels, height, width] of one frame or "
                "more; encode images with the VAE of an SDXL model"
            )
        if not samples.isfinite().all():
            raise ValueError(
                "the given latent holds NaN or infinite values; if a VAE made it, use the fp16-fix VAE or run the VAE "
                "in fp32 (ComfyUI: --fp32-vae)"
            )
        pin = Pin(samples, places, strength, start_percent, end_percent)
        return io.NodeOutput(record(model, lambda contract: contract.with_pin(pin)))
