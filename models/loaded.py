"""What the pack's own sockets carry: a network under ComfyUI's memory manager."""

from collections.abc import Callable
from typing import Generic

import comfy.model_management
import comfy.model_patcher
import torch

from .files import Network


class Loaded(Generic[Network]):
    """A network of plain torch layers that waits on `offload` and runs on `device`, ComfyUI's GPU by default.

    name: of its file, for errors.
    """

    def __init__(self, network: Network, name: str, offload: torch.device, device: torch.device | None = None):
        self.name = name
        # plain ModelPatcher: dynamic loading would stream comfy.ops layers, and these are torch.nn
        self.patcher = comfy.model_patcher.ModelPatcher(network, load_device=device or comfy.model_management.get_torch_device(), offload_device=offload)

    @property
    def network(self) -> Network:
        return self.patcher.model

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def load(self, memory: int, *beside, force_full_load: bool = False) -> None:
        """Onto the device, with `memory` bytes to spare, together with the patchers `beside` it."""
        comfy.model_management.load_models_gpu([*beside, self.patcher], memory_required=memory, force_full_load=force_full_load)
        self.network.to(self.device)  # ComfyUI leaves torch.nn layers behind when it loads a model in part


def fitting_rows(rows: int, memory: Callable[[int], int], device: torch.device) -> int:
    """`rows` halved until `memory(rows)` bytes are free, or 1."""
    while rows > 1 and memory(rows) > comfy.model_management.get_free_memory(device):
        rows //= 2
    return rows
