"""Temporal adapters as nodes: load a file, apply it to a MODEL."""

from . import _shared as shared
from ._api import io

CATEGORY = "SDXL Anime Video/adapter"
FOLDER = "temporal_adapters"
Adapter = io.Custom("SAV_TEMPORAL_ADAPTER")


class LoadTemporalAdapter(io.ComfyNode):
    """Loads a temporal adapter's file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_LoadTemporalAdapter",
            display_name="Load Temporal Adapter",
            category=CATEGORY,
            description="Loads a temporal adapter: the layers that let the frames of a clip see each other.",
            inputs=[
                shared.file_input(
                    "adapter_name",
                    FOLDER,
                    "A file in ComfyUI's models/temporal_adapters. toon/toon_adapter.safetensors comes with the pack "
                    "and belongs to the Toon Demo Model.",
                )
            ],
            outputs=[Adapter.Output(display_name="adapter", tooltip="The adapter, for Apply Temporal Adapter.")],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str):
        return shared.fingerprint(FOLDER, adapter_name)

    @shared.named_classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.planned import load_patcher
        from ..temporal.weights.adapter_file import load_adapter

        return io.NodeOutput(load_patcher(shared.path_of(FOLDER, adapter_name), load_adapter))


class ApplyTemporalAdapter(io.ComfyNode):
    """Puts a temporal adapter on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ApplyTemporalAdapter",
            display_name="Apply Temporal Adapter",
            category=CATEGORY,
            description="Puts a temporal adapter between self- and cross-attention of every transformer block of an "
            "SDXL model, so that the pictures of a batch become the frames of one clip.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model, with or without LoRAs."),
                Adapter.Input("adapter", tooltip="From Load Temporal Adapter."),
                shared.strength_input(
                    "Strength of the adapter. 1 is what it was trained for, 0 is the plain model to the last bit."
                ),
                *shared.percent_inputs("the adapter"),
            ],
            outputs=shared.patched_model("with the adapter"),
        )

    @shared.named_classmethod
    def execute(cls, model, adapter, strength, start_percent, end_percent) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.adapter import apply_adapter

        shared.check_percents(start_percent, end_percent)
        shared.check_between("strength", strength, -10, 10)
        return io.NodeOutput(apply_adapter(model, adapter, strength, start_percent, end_percent))
