"""The pack as ComfyUI loads it: the nodes that it can run, and the routes that the browser asks."""

import logging

from comfy_api.latest import ComfyExtension, io

from ..nodes import FAILED, NODES
from .self_check import usable


class LoupeExtension(ComfyExtension):
    async def on_load(self) -> None:
        try:
            # only a running server has routes
            from .routes import add_routes
        except Exception as error:  # as in nodes: what ComfyUI lacks costs no more than what needs it
            logging.getLogger("loupe").error("Loupe's plots and maps in the browser are off: %s", error)
        else:
            add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return usable(NODES, FAILED)
