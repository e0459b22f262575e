"""What an artist sees: thin V3 nodes, one file per capability."""

from ..temporal.hosts.comfy.pictures import hint_weights
from . import motion_module, temporal_adapter
from ._api import ComfyExtension, io
from ._shared import register_folder
from .anchor import KeyframeAnchor
from .best_hq import BestHQSampler, BestHQSigmas
from .context_windows import ContextWindows
from .control_hints import ControlHints
from .control_keyframes import ControlKeyframes
from .demo_model import DemoModel
from .image_grid import ImageGrid
from .interpolate import InterpolateFrames
from .latent import EmptyVideoLatent
from .lora_stack import LoraStack
from .motion_module import ApplyMotionModule, LoadMotionModule, MotionLora
from .noise import CorrelatedNoise
from .prompt_schedule import PromptSchedule
from .sampling_preset import SamplingPreset
from .save_clip import DecodeAndSaveClip, SaveClip
from .segment_chain import SegmentChain
from .smoothing import FrameSmoothing
from .temporal_adapter import ApplyTemporalAdapter, LoadTemporalAdapter


class SDXLAnimeVideo(ComfyExtension):
    """The pack as ComfyUI registers it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from ..demo.comfy import register_folders

        for folder in (temporal_adapter.FOLDER, motion_module.FOLDER, motion_module.LORA_FOLDER, hint_weights.FOLDER):
            register_folder(folder)
        register_folders()
        return NODES


NODES: list[type[io.ComfyNode]] = [
    DemoModel,
    LoadTemporalAdapter,
    ApplyTemporalAdapter,
    LoraStack,
    LoadMotionModule,
    ApplyMotionModule,
    MotionLora,
    BestHQSampler,
    BestHQSigmas,
    SamplingPreset,
    EmptyVideoLatent,
    CorrelatedNoise,
    FrameSmoothing,
    KeyframeAnchor,
    PromptSchedule,
    ControlHints,
    SegmentChain,
    ContextWindows,
    ControlKeyframes,
    InterpolateFrames,
    ImageGrid,
    SaveClip,
    DecodeAndSaveClip,
]
