"""The pack as ComfyUI loads it: its nodes, and the routes that its browser side asks."""

from comfy_api.latest import ComfyExtension, io

from ..nodes import NODES


class LoupeExtension(ComfyExtension):
    async def on_load(self) -> None:
        # only a running server has routes
        from .routes import add_routes

        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
