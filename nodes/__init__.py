"""What an artist sees: thin V3 nodes, one file per capability."""

from ._api import ComfyExtension, io
from .best_hq import BestHQSampler, BestHQSigmas


class SDXLAnimeVideo(ComfyExtension):
    """The pack as ComfyUI registers it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


NODES: list[type[io.ComfyNode]] = [
    BestHQSampler,
    BestHQSigmas,
]
