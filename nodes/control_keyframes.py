"""ControlNets over a clip: at every frame, or at keyframes only."""

from __future__ import annotations

from ..temporal.clip.keyframes import FALLOFFS, keyframe_rows, parse_layer_weights, picture_of_frame, strength_curve
from ._api import io
from ._ranges import check_range, percent_inputs

NODE = "SAV_ControlKeyframes"


class ControlKeyframes(io.ComfyNode):
    """Puts a ControlNet with a strength of its own for each frame into the conditioning."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Control Keyframes",
            category="SDXL Anime Video/control",
            description="Steers a clip by a ControlNet at keyframes. Frames between them are left to the temporal "
            "adapter, or steered less and less. Put several in a row for several ControlNets.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive prompt, or what another ControlNet has made."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, or what another ControlNet has made."),
                io.ControlNet.Input(
                    "control_net", tooltip="Any SDXL ControlNet, union ControlNet, control LoRA or T2I adapter."
                ),
                io.Image.Input(
                    "hints",
                    tooltip="Hint pictures: one for each frame of the clip, or one for each keyframe in the order in "
                    "which they are written, or a single one. Alpha is dropped.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=100000,
                    tooltip="Frames of the whole clip: connect the frames output of Empty Video Latent.",
                ),
                io.String.Input(
                    "keyframes",
                    default="0,25%,50%,75%,100%",
                    tooltip="Frames that are steered: frame numbers or percentages with commas, -1 for the last, or "
                    "all for every frame.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the ControlNet at the keyframes. 0 leaves it out.",
                ),
                io.Combo.Input(
                    "falloff",
                    options=list(FALLOFFS),
                    default="none",
                    tooltip="Strength between keyframes. none: only keyframes are steered, and only they cost time. "
                    "linear, smooth: it falls to 0 over falloff_frames.",
                ),
                *percent_inputs("the ControlNet"),
                io.Vae.Input("vae", optional=True, tooltip="For ControlNets that take their hints as latents."),
                io.Int.Input(
                    "falloff_frames",
                    default=4,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="Distance from a keyframe, in frames, at which linear and smooth falloff reach 0.",
                ),
                io.String.Input(
                    "layer_weights",
                    default="",
                    optional=True,
                    tooltip="Weights of the ControlNet's layers with commas, shallow to deep and the middle last: 10 "
                    "numbers for an SDXL ControlNet. Empty: 1 for each.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "controlled_positive", display_name="positive", tooltip="The positive prompt with the ControlNet."
                ),
                io.Conditioning.Output(
                    "controlled_negative", display_name="negative", tooltip="The negative prompt with the ControlNet."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        control_net,
        hints,
        frames: int,
        keyframes: str,
        strength: float,
        falloff: str,
        start_percent: float,
        end_percent: float,
        vae=None,
        falloff_frames: int = 4,
        layer_weights: str = "",
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.conditioning.control import control_clip

        check_range(NODE, start_percent, end_percent)
        if not 0 <= strength <= 10:
            raise ValueError(f"{NODE}: strength is {strength:g}; it must lie between 0 and 10")
        if frames < 1:
            raise ValueError(f"{NODE}: frames is {frames}; it must be 1 or more")
        if hints.ndim != 4 or 0 in hints.shape or hints.shape[3] not in (3, 4):
            raise ValueError(f"{NODE}: hints are {list(hints.shape)}, not [pictures, height, width, 3]; connect images")
        hints = hints[..., :3]
        if not hints.isfinite().all():
            raise ValueError(f"{NODE}: hints hold NaN or infinite values; look at what made these pictures")
        rows = keyframe_rows(keyframes, frames, NODE)
        try:
            curve = strength_curve(rows, frames, falloff, falloff_frames)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from None
        pictures = picture_of_frame(rows, frames, len(hints), NODE)
        weights = parse_layer_weights(layer_weights, NODE)
        if strength == 0:
            return io.NodeOutput(positive, negative)
        percents = start_percent, end_percent
        both = control_clip([positive, negative], control_net, hints, pictures, curve, strength, percents, vae, weights)
        return io.NodeOutput(*both)
