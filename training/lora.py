"""Low-rank adapters for networks in training, saved by ComfyUI's loader keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LoRA(nn.Module):
    """Adds up(down(input)) to the output of each of `root`'s linear and convolution layers that `choose(name)` picks.

    alpha equals the rank, so ComfyUI adds the product as it is. `up` starts at zero. `on` False shows the network as
    it was.
    """

    def __init__(self, root: nn.Module, choose, rank: int):
        super().__init__()
        self.down, self.up, self.on = nn.ParameterDict(), nn.ParameterDict(), True
        for name, layer in root.named_modules():
            if not choose(name) or not isinstance(layer, (nn.Linear, nn.Conv2d)):
                continue
            key = name.replace(".", "_")
            self.down[key] = torch.empty(rank, *layer.weight.shape[1:])
            self.up[key] = torch.zeros(layer.weight.shape[0], rank, *(1 for _ in layer.weight.shape[2:]))
            nn.init.kaiming_uniform_(self.down[key], a=5**0.5)
            layer.register_forward_hook(self._hook(key))
        if not len(self.down):
            raise ValueError(f"no layer of {type(root).__name__} was chosen for LoRA")

    def _hook(self, key):
        def add(layer, inputs, output):
            if not self.on:
                return output
            if isinstance(layer, nn.Linear):
                return output + F.linear(F.linear(inputs[0], self.down[key]), self.up[key])
            low = F.conv2d(inputs[0], self.down[key], stride=layer.stride, padding=layer.padding)
            return output + F.conv2d(low, self.up[key])

        return add

    @staticmethod
    def export(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        """Parameters `down.KEY` and `up.KEY` of a LoRA to `PREFIX_KEY.lora_down.weight` and so on."""
        return {f"{prefix}{key}.lora_{part}.weight": value for name, value in weights.items() for part, key in [name.split(".", 1)]}

    def start_from(self, exported: dict[str, torch.Tensor], prefix: str) -> None:
        """Go on from weights that `export` wrote. Raises RuntimeError where they are for other layers or another rank."""
        self.load_state_dict({f"{part}.{key.removeprefix(prefix)}": value for name, value in exported.items()
                              for key, part in [name.removesuffix(".weight").split(".lora_")]})
