"""The toon world's tiny SDXL as a node."""

from ._api import io
from ._shared import named_classmethod


class DemoModel(io.ComfyNode):
    """Loads the model that ships with the pack."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SAV_DemoModel",
            display_name="Toon Demo Model",
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

    @named_classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo.comfy import load_toon_comfy

        return io.NodeOutput(*load_toon_comfy())
