"""Motion modules of AnimateDiff-SDXL and Hotshot-XL as nodes: load a file, add motion LoRAs, apply it to a MODEL."""

from ..temporal.hosts.comfy.layers.beta_schedule import CHOICES
from . import _shared as shared
from ._api import io

FOLDER = "animatediff_models"
LORA_FOLDER = "animatediff_motion_lora"
CATEGORY = "SDXL Anime Video/motion module"
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
                shared.file_input(
                    "motion_module_name",
                    FOLDER,
                    "A file in ComfyUI's models/animatediff_models, recognised by its contents. Modules for SD1.5 do "
                    "not fit SDXL; toon/toon_motion.safetensors is for the Toon Demo Model.",
                )
            ],
            outputs=[
                Module.Output(
                    display_name="motion_module", tooltip="The motion module, for Motion LoRA or Apply Motion Module."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_module_name: str):
        return shared.fingerprint(FOLDER, motion_module_name)

    @shared.named_classmethod
    def execute(cls, motion_module_name) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.planned import load_patcher
        from ..temporal.weights.motion.file import load_motion_module

        return io.NodeOutput(load_patcher(shared.path_of(FOLDER, motion_module_name), load_motion_module))


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
                shared.file_input("lora_name", LORA_FOLDER, "A file in ComfyUI's models/animatediff_motion_lora."),
                shared.strength_input(
                    "Strength of the LoRA. 1 is what it was trained for, 0 is the motion module alone."
                ),
            ],
            outputs=[
                Module.Output(
                    "patched_module",
                    display_name="motion_module",
                    tooltip="The motion module with the LoRA, for Apply Motion Module.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_module=None, lora_name: str = "", strength: float = 1.0):
        return shared.fingerprint(LORA_FOLDER, lora_name)

    @shared.named_classmethod
    def execute(cls, motion_module, lora_name, strength) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.motion_module import with_motion_lora

        shared.check_between("strength", strength, -10, 10)
        return io.NodeOutput(with_motion_lora(motion_module, shared.path_of(LORA_FOLDER, lora_name), strength))


class ApplyMotionModule(io.ComfyNode):
    """Puts a motion module on a MODEL."""

    @classmethod
    def define_schema(cls):
        def factor(name: str, where: str):
            return shared.strength_input(
                f"Factor of strength for the layers {where}; 0 leaves them out.", name, optional=True
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
                shared.strength_input(
                    "Strength of the motion module. 1 is what it was trained for, 0 leaves the module out."
                ),
                *shared.percent_inputs("the motion module"),
                io.Combo.Input(
                    "beta_schedule",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="Noise levels of the model. auto: those of the module's training. sdxl: the model's own. "
                    "The others name the schedule and its first and last beta.",
                ),
                factor("down_strength", "of the down blocks"),
                factor("mid_strength", "of the mid block, which the published SDXL modules do not have"),
                factor("up_strength", "of the up blocks"),
            ],
            outputs=shared.patched_model("with the motion module"),
        )

    @shared.named_classmethod
    def execute(
        cls,
        model,
        motion_module,
        strength,
        start_percent,
        end_percent,
        beta_schedule,
        down_strength=1.0,
        mid_strength=1.0,
        up_strength=1.0,
    ) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.motion_module import apply_motion_module

        shared.check_percents(start_percent, end_percent)
        shared.check_between("strength", strength, -10, 10)
        factors = {"down": down_strength, "mid": mid_strength, "up": up_strength}
        for direction, value in factors.items():
            shared.check_between(f"{direction}_strength", value, -10, 10)
        return io.NodeOutput(
            apply_motion_module(model, motion_module, strength, start_percent, end_percent, beta_schedule, factors)
        )
