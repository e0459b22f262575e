"""The toon world's tiny SDXL as a node."""

from __future__ import annotations

from ..temporal.hosts.comfy.errors import at_node
from ._api import io

NODE = "Toon Demo Model"


class DemoModel(io.ComfyNode):
    """Loads the model that ships with the pack."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_DemoModel",
            display_name=NODE,
            category="SDXL Anime Video/demo",
            description="A very small SDXL for trying the pack on any computer: it draws chibi characters at 128 px "
            "and runs on a CPU in seconds. Prompts: 'girl, blue hair, red dress, sunset, run'.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="A small SDXL UNet for 128x128 pictures; works with every sampler, LoRA and ControlNet.",
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Its two text encoders, with SDXL's own tokenizers. They know only the toon world's words.",
                ),
                io.Vae.Output(
                    display_name="vae", tooltip="Its autoencoder: 8 pixels to a latent, 4 channels, as SDXL's."
                ),
            ],
        )

    @classmethod
    @at_node(NODE)
    def execute(cls) -> io.NodeOutput:
        from ..demo.comfy import load_toon_comfy

        return io.NodeOutput(*load_toon_comfy())
