"""ControlNets over a clip: at every frame, or at keyframes only."""

from ..temporal.clip.keyframes import FALLOFFS, keyframe_rows, parse_layer_weights, picture_of_frame, strength_curve
from . import _shared as shared
from ._api import io


class ControlKeyframes(io.ComfyNode):
    """Puts a ControlNet into the conditioning, with its own strength for each frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ControlKeyframes",
            display_name="Control Keyframes",
            category="SDXL Anime Video/control",
            description="Steers a clip by a ControlNet at keyframes. Between them the temporal adapter decides alone, "
            "or the ControlNet's strength falls off. For several ControlNets, connect several of these nodes in a row.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive prompt, with or without other ControlNets."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, with or without other ControlNets."),
                io.ControlNet.Input(
                    "control_net", tooltip="Any SDXL ControlNet, union ControlNet, control LoRA or T2I adapter."
                ),
                io.Image.Input(
                    "hints",
                    tooltip="Hint pictures: one for each frame of the clip, one for each keyframe in the order "
                    "written, or a single one. Alpha is dropped.",
                ),
                shared.frames_input(
                    "Frames of the whole clip: connect the frames output of Empty Video Latent.", most=100000
                ),
                io.String.Input(
                    "keyframes",
                    default="0,25%,50%,75%,100%",
                    tooltip="Steered frames: frame numbers or percentages with commas, -1 for the last, or all for "
                    "every frame.",
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
                    "linear, smooth: strength falls to 0 over falloff_frames.",
                ),
                *shared.percent_inputs("the ControlNet"),
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

    @shared.named_classmethod
    def execute(
        cls,
        positive,
        negative,
        control_net,
        hints,
        frames,
        keyframes,
        strength,
        falloff,
        start_percent,
        end_percent,
        vae=None,
        falloff_frames=4,
        layer_weights="",
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.conditioning.control import control_clip

        shared.check_percents(start_percent, end_percent)
        shared.check_between("strength", strength, 0, 10)
        shared.check_at_least("frames", frames, 1)
        shared.check_pictures(hints, "hints")
        hints = hints[..., :3]
        if not hints.isfinite().all():
            raise ValueError("hints hold NaN or infinite values; check the node that made these pictures")
        rows = keyframe_rows(keyframes, frames)
        curve = strength_curve(rows, frames, falloff, falloff_frames)
        pictures = picture_of_frame(rows, frames, len(hints))
        weights = parse_layer_weights(layer_weights)
        if strength == 0:
            return io.NodeOutput(positive, negative)
        percents = start_percent, end_percent
        both = control_clip([positive, negative], control_net, hints, pictures, curve, strength, percents, vae, weights)
        return io.NodeOutput(*both)
