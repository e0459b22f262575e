"""What an artist sees: thin V3 nodes, one file per capability."""

from ._api import ComfyExtension, io
from .anchor import KeyframeAnchor
from .best_hq import BestHQSampler, BestHQSigmas
from .context_windows import ContextWindows
from .control_keyframes import ControlKeyframes
from .decode_and_save import DecodeAndSaveClip
from .demo_model import DemoModel
from .interpolate import InterpolateFrames
from .latent import EmptyVideoLatent
from .noise import CorrelatedNoise
from .prompt_schedule import PromptSchedule
from .save_clip import SaveClip
from .segment_chain import SegmentChain
from .smoothing import FrameSmoothing
from .temporal_adapter import ApplyTemporalAdapter, LoadTemporalAdapter, register_folder


class SDXLAnimeVideo(ComfyExtension):
    """The pack as ComfyUI registers it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from ..demo.comfy import register_folders

        register_folder()
        register_folders()
        return NODES


NODES: list[type[io.ComfyNode]] = [
    DemoModel,
    LoadTemporalAdapter,
    ApplyTemporalAdapter,
    BestHQSampler,
    BestHQSigmas,
    EmptyVideoLatent,
    CorrelatedNoise,
    FrameSmoothing,
    KeyframeAnchor,
    PromptSchedule,
    SegmentChain,
    ContextWindows,
    ControlKeyframes,
    InterpolateFrames,
    SaveClip,
    DecodeAndSaveClip,
]
