"""The temporal adapter as nodes: choose a file, put it on a MODEL."""

from __future__ import annotations

from . import _weights_folder as weights
from ._api import io
from ._ranges import check_range, percent_inputs

FOLDER = "temporal_adapters"
Adapter = io.Custom("SAV_TEMPORAL_ADAPTER")


class LoadTemporalAdapter(io.ComfyNode):
    """Loads an adapter file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_LoadTemporalAdapter",
            display_name="Load Temporal Adapter",
            category="SDXL Anime Video/adapter",
            description="Loads a temporal adapter: the layers that let the frames of a clip see each other.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=weights.file_names(FOLDER),
                    tooltip="A file in ComfyUI's models/temporal_adapters. toon/toon_adapter.safetensors comes with "
                    "the pack and belongs to the Toon Demo Model.",
                ),
            ],
            outputs=[
                Adapter.Output(display_name="adapter", tooltip="The adapter, for Apply Temporal Adapter."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str):
        return weights.fingerprint(FOLDER, adapter_name)

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.adapter import load_patcher
        from ..temporal.weights.adapter_format import AdapterError

        path = weights.path_of(FOLDER, adapter_name, "SAV_LoadTemporalAdapter")
        try:
            return io.NodeOutput(load_patcher(path))
        except AdapterError as error:
            raise AdapterError(f"SAV_LoadTemporalAdapter: {error}") from None


class ApplyTemporalAdapter(io.ComfyNode):
    """Puts an adapter on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_ApplyTemporalAdapter",
            display_name="Apply Temporal Adapter",
            category="SDXL Anime Video/adapter",
            description="Puts a temporal adapter between self- and cross-attention of every transformer block of an "
            "SDXL model, so that the pictures of a batch become the frames of one clip.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL model, with or without LoRAs."),
                Adapter.Input("adapter", tooltip="From Load Temporal Adapter."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of what the adapter computes is added. 1 is what it was trained for, 0 is the "
                    "plain model to the last bit.",
                ),
                *percent_inputs("the adapter"),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="The model with the adapter, for any sampler, KSampler included.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, adapter, strength: float, start_percent: float, end_percent: float) -> io.NodeOutput:
        from ..temporal.hosts.comfy.layers.adapter import apply_adapter

        check_range("SAV_ApplyTemporalAdapter", start_percent, end_percent)
        if not -10 <= strength <= 10:
            raise ValueError(f"SAV_ApplyTemporalAdapter: strength is {strength:g}; it must lie between -10 and 10")
        return io.NodeOutput(apply_adapter(model, adapter, strength, start_percent, end_percent))
