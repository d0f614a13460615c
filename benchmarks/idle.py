"""SDXL without its network: what ComfyUI and the pack spend around the calls.

A pack is the name that a checkout of Loupe is imported under.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch

from .attention_cost import SDXL_LAYOUT


class Idle(torch.nn.Module):
    """Gives back what it is shown. calls: how often it was."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, *args, **kwargs):
        self.calls += 1
        return x


def idle_model():
    """MODEL of SDXL's kind on the CPU whose network costs nothing."""
    config = comfy.supported_models.SDXL({**SDXL_LAYOUT, "disable_unet_model_creation": True})
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "")
    network.diffusion_model = Idle()
    return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))


def noise(side: int) -> torch.Tensor:
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))


def sigmas(model, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


class Paths:
    """Ways to denoise a canvas of `side` x `side` cells on `model` in regions of `region` x `region`, with the code of a
    pack."""

    def __init__(self, model, region: int = 128, pack: str = __package__.split(".")[0]):
        self.model, self.region, self.pack = model, region, pack
        text = [[torch.zeros(1, 77, 2048), {"pooled_output": torch.zeros(1, 1280)}]]
        self.prompts = text, text

    def of(self, module: str, name: str):
        return getattr(importlib.import_module(f"{self.pack}.{module}"), name)

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        """name -> function(side, steps) that returns the samples."""
        return {
            "stock": self.stock,
            "regions, one a call": lambda side, steps: self.regions(side, steps, regions_per_call=1),
            "regions, nine a call": lambda side, steps: self.regions(side, steps, regions_per_call=9),
            "regions with jitter": lambda side, steps: self.regions(side, steps, regions_per_call=9, jitter=True),
            "DemoFusion": self.demofusion,
            "PixelSmith": self.pixelsmith,
            "PixelSmith, cover": lambda side, steps: self.pixelsmith(side, steps, "cover"),
        }

    def stock(self, side, steps, model=None):
        model = model or self.model
        latent = torch.zeros(1, 4, side, side)
        return comfy.sample.sample_custom(model, noise(side), 4.0, comfy.samplers.sampler_object("euler"), sigmas(model, steps), *self.prompts, latent, disable_pbar=True, seed=0)

    def regions(self, side, steps, **settings):
        regional = self.of("patches.regional_denoise", "RegionalDenoise")((self.region, self.region), sizes="canvas", **settings)
        return self.stock(side, steps, self.of("engine", "with_parts")(self.model, regional))

    def demofusion(self, side, steps):
        regional = self.of("patches.regional_denoise", "RegionalDenoise")((self.region, self.region), jitter=True, regions_per_call=9, sizes="canvas")
        reference = torch.zeros(1, 4, self.region, self.region)
        return self.stock(side, steps, self.of("patches.demofusion", "patch_demofusion")(self.model, reference, parts=(regional,)))

    def pixelsmith(self, side, steps, order="random"):
        sample = self.of("patches.pixelsmith", "sample")
        return sample(self.model, *self.prompts, noise(side), sigmas(self.model, steps), max(steps // 2, 1), 4.0, 0, self.region, order, regions_per_call=8)
