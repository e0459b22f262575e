"""Motion modules of AnimateDiff-SDXL and Hotshot-XL as nodes: choose a file, add motion LoRAs, put it on a MODEL."""

from __future__ import annotations

from . import _weights_folder as weights
from ._api import io
from ._ranges import check_range, percent_inputs

FOLDER = "animatediff_models"
LORA_FOLDER = "animatediff_motion_lora"
CATEGORY = "SDXL Anime Video/motion module"
# `CHOICES` of hosts/comfy/layers/beta_schedule.py, which imports comfy: not while nodes are registered.
BETA_SCHEDULES = ["auto", "sdxl", "scaled-linear 0.00085-0.020", "scaled-linear 0.00085-0.012", "linear 0.00085-0.012"]
Module = io.Custom("SAV_MOTION_MODULE")


class LoadMotionModule(io.ComfyNode):
    """Loads a motion module's file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_LoadMotionModule",
            display_name="Load Motion Module",
            category=CATEGORY,
            description="Loads a motion module for SDXL: AnimateDiff's mm_sdxl_v10_beta, Hotshot-XL's temporal layers, "
            "a MotionAdapter of diffusers, or one that you trained.",
            inputs=[
                io.Combo.Input(
                    "motion_module_name",
                    options=weights.file_names(FOLDER),
                    tooltip="A file in ComfyUI's models/animatediff_models. What it is, is told by its contents. "
                    "Modules for SD1.5 do not fit SDXL; toon/toon_motion.safetensors is for the Toon Demo Model.",
                ),
            ],
            outputs=[
                Module.Output(
                    display_name="motion_module", tooltip="The motion module, for Motion LoRA or Apply Motion Module."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_module_name: str):
        return weights.fingerprint(FOLDER, motion_module_name)

    @classmethod
    def execute(cls, motion_module_name: str) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.motion_module import load_patcher
        from ..temporal.weights.motion_module_keys import MotionModuleError

        path = weights.path_of(FOLDER, motion_module_name, "SAV_LoadMotionModule")
        try:
            return io.NodeOutput(load_patcher(path))
        except MotionModuleError as error:
            raise MotionModuleError(f"SAV_LoadMotionModule: {error}") from None


class MotionLora(io.ComfyNode):
    """Adds a motion LoRA to a motion module."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_MotionLora",
            display_name="Motion LoRA",
            category=CATEGORY,
            description="Adds a motion LoRA to a motion module. The motion LoRAs that AnimateDiff published are for "
            "SD1.5 and are refused; one that was trained for an SDXL motion module fits.",
            inputs=[
                Module.Input("motion_module", tooltip="From Load Motion Module, or from another Motion LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=weights.file_names(LORA_FOLDER),
                    tooltip="A file in ComfyUI's models/animatediff_motion_lora.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added. 1 is what it was trained for, 0 is the module alone.",
                ),
            ],
            outputs=[
                Module.Output(
                    "patched_module",
                    display_name="motion_module",
                    tooltip="The motion module with the LoRA, for Apply Motion Module.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_module=None, lora_name: str = "", strength: float = 1.0):
        return weights.fingerprint(LORA_FOLDER, lora_name)

    @classmethod
    def execute(cls, motion_module, lora_name: str, strength: float) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.motion_module import with_motion_lora
        from ..temporal.weights.motion_module_keys import MotionModuleError

        _check_strength("SAV_MotionLora", "strength", strength)
        path = weights.path_of(LORA_FOLDER, lora_name, "SAV_MotionLora")
        try:
            return io.NodeOutput(with_motion_lora(motion_module, path, strength))
        except MotionModuleError as error:
            raise MotionModuleError(f"SAV_MotionLora: {error}") from None


class ApplyMotionModule(io.ComfyNode):
    """Puts a motion module on a MODEL."""

    @classmethod
    def define_schema(cls):
        def factor(name: str, where: str):
            return io.Float.Input(
                name,
                default=1.0,
                min=-10.0,
                max=10.0,
                step=0.01,
                optional=True,
                tooltip=f"Times strength for the layers {where}; 0 takes them out.",
            )

        return io.Schema(
            node_id="SAV_ApplyMotionModule",
            display_name="Apply Motion Module",
            category=CATEGORY,
            description="Puts a motion module of AnimateDiff-SDXL or Hotshot-XL into an SDXL model, computed as its "
            "authors do, so that the pictures of a batch become the frames of one clip.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model, with or without LoRAs or a temporal adapter."),
                Module.Input("motion_module", tooltip="From Load Motion Module or Motion LoRA."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of what the module computes is added. 1 is what it was trained for, 0 leaves the "
                    "module out.",
                ),
                *percent_inputs("the motion module"),
                io.Combo.Input(
                    "beta_schedule",
                    options=BETA_SCHEDULES,
                    default="auto",
                    tooltip="Noise levels of the model. auto: those that the module was trained on. sdxl: the model's "
                    "own. The others say the betas of the schedule, first and last.",
                ),
                factor("down_strength", "on the way down"),
                factor("mid_strength", "in the middle, which the published SDXL modules do not have"),
                factor("up_strength", "on the way up"),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="The model with the motion module, for any sampler, KSampler included.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        motion_module,
        strength: float,
        start_percent: float,
        end_percent: float,
        beta_schedule: str,
        down_strength: float = 1.0,
        mid_strength: float = 1.0,
        up_strength: float = 1.0,
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.motion_module import NODE, apply_motion_module

        check_range(NODE, start_percent, end_percent)
        _check_strength(NODE, "strength", strength)
        stages = {"down": down_strength, "mid": mid_strength, "up": up_strength}
        for stage, value in stages.items():
            _check_strength(NODE, f"{stage}_strength", value)
        return io.NodeOutput(
            apply_motion_module(model, motion_module, strength, start_percent, end_percent, beta_schedule, stages)
        )


def _check_strength(node: str, name: str, value: float) -> None:
    """Raise ValueError, naming the node, for a value outside -10 to 10."""
    if not -10 <= value <= 10:
        raise ValueError(f"{node}: {name} is {value:g}; it must lie between -10 and 10")
