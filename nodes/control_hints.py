"""Hints for ControlNets, drawn from frames."""

from ..media.hints import KINDS
from ..temporal.clip.keyframes import ALL, keyframe_rows
from ..temporal.hosts.comfy.pictures.hint_weights import FOLDER, PUBLISHED
from ._api import io
from ._shared import check_at_least, check_choice, check_pictures, images_input, named_classmethod


class ControlHints(io.ComfyNode):
    """Draws poses, depth, lines or edges of every frame, or of keyframes only."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ControlHints",
            display_name="Control Hints",
            category="SDXL Anime Video/conditioning",
            description="Draws the hints that a ControlNet follows from the frames of a clip: poses, depth, lines or "
            "edges. Frame by frame, in memory that does not grow with the clip. All kinds but canny need weights.",
            inputs=[
                images_input(),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="canny",
                    tooltip="openpose: skeletons. depth: near is white. lineart, lineart_anime: drawn lines. softedge: "
                    "outlines, thick where they are strong. canny: edges, one pixel wide; needs no weights.",
                ),
                io.Int.Input(
                    "resolution",
                    default=768,
                    min=0,
                    max=8192,
                    step=64,
                    tooltip="Shorter side of the hints in pixels; both sides are rounded to multiples of 64. The size "
                    "of your clip is best, because thin lines do not survive scaling. 0: the size of the images.",
                ),
                io.Int.Input(
                    "low",
                    default=100,
                    min=0,
                    max=2000,
                    optional=True,
                    tooltip="canny: steepness at which a pixel continues an edge. Lower draws longer lines.",
                ),
                io.Int.Input(
                    "high",
                    default=200,
                    min=0,
                    max=2000,
                    optional=True,
                    tooltip="canny: steepness at which a pixel begins an edge. Higher draws fewer lines.",
                ),
                io.String.Input(
                    "keyframes",
                    default="",
                    optional=True,
                    tooltip="Only these frames, such as 0, 25%, 50%, -1; the others cost nothing. Empty: every frame.",
                ),
                io.Boolean.Input(
                    "hand", default=False, optional=True, tooltip="openpose: also fingers. Needs one more file."
                ),
                io.Boolean.Input(
                    "face", default=False, optional=True, tooltip="openpose: also points of faces. Needs one more file."
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip=f"Fetch missing weights from huggingface.co/{PUBLISHED} into models/{FOLDER}. Off: nothing "
                    "is ever downloaded.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "hints", display_name="images", tooltip="The hints in order: one a frame, or one a keyframe."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, kind: str = "", hand: bool = False, face: bool = False, **_):
        from ..temporal.hosts.comfy.pictures.hints import fingerprint

        return fingerprint(kind, hand, face)

    @named_classmethod
    def execute(
        cls, images, kind, resolution, low=100, high=200, keyframes="", hand=False, face=False, download=False
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.pictures.hints import draw_hints

        check_pictures(images)
        check_choice("kind", kind, KINDS)
        check_at_least("resolution", resolution, 0)
        if not 0 <= low <= high:
            raise ValueError(f"low is {low} and high {high}; low must lie between 0 and high")
        rows = keyframe_rows(keyframes.strip() or ALL, len(images))
        return io.NodeOutput(draw_hints(images, rows, kind, resolution, (low, high), hand, face, download))
