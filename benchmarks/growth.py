"""`bench growth`: how memory and time grow with the canvas, from 1K to 16K, and whether 8192 x 8192 fits into 8 GB.

The network of SDXL is replaced by one that costs nothing, so that what is left is the work around it. Memory is what
a process of its own holds at its peak beside the network, resident; time is its processor time on one thread.
Exits with 1 where either grows faster than the pixels, or 8192 x 8192 does not fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from unittest import mock

import comfy.model_management
import comfy.utils
import numpy as np
import torch

from ..models.implicit_decoder import HybridDecoder
from ..models.implicit_decoder.loaded import AnyScale, LoadedDecoder
from ..models.latent_space import LatentSpace
from ..models.lsr import LSR
from ..models.lsr.loaded import LatentUpscaler
from . import peak_memory
from .idle import Paths, idle_model
from .world import World

PIXELS_PER_CELL = 8
LINEAR = 1.15  # exponent of the pixels up to which growth counts as linear
BUDGET = 8e9
SDXL_WEIGHTS = 2 * 2_567_463_684  # bytes of its network in half precision
LIMITED = 8192  # pixels a side of the canvas that has to fit
STOCK, LSR_TWICE, DECODER = "stock", "LSR, twice", "decoder, four times"


class Growth:
    """MiB and seconds of `work(side)` for canvases of `sides` pixels."""

    def __init__(self, name: str, work: Callable[[int], object], sides: list[int]):
        self.name, self.sides = name, sides
        self.mebibytes, self.seconds = zip(*(peak_memory.peak(partial(work, side)) for side in sides))

    def slope(self, values) -> float:
        """Of `values` over megapixels."""
        return float(np.polyfit(self._megapixels, values, 1)[0])

    def exponent(self, values) -> float:
        """Power of the pixels by which `values` grow between the last two sizes; what all sizes cost makes it smaller."""
        return float(np.diff(np.log(values[-2:]))[0] / np.diff(np.log(self._megapixels[-2:]))[0])

    @property
    def is_linear(self) -> bool:
        return max(self.exponent(self.mebibytes), self.exponent(self.seconds)) <= LINEAR

    @property
    def _megapixels(self):
        return np.array([(side / 1000) ** 2 for side in self.sides])

    def __str__(self) -> str:
        memory = " ".join(f"{value:7.0f}" for value in self.mebibytes)
        time = " ".join(f"{value:7.2f}" for value in self.seconds)
        grows = "linear" if self.is_linear else "FASTER THAN THE PIXELS"
        return f"{self.name:20} MiB {memory}, {self.slope(self.mebibytes):.2f} a megapixel, pixels^{self.exponent(self.mebibytes):.2f}; seconds {time}, {self.slope(self.seconds):.4f} a megapixel, pixels^{self.exponent(self.seconds):.2f}: {grows}"


def ways(steps: int) -> dict[str, Callable[[int], object]]:
    """name -> function(side of the canvas, pixels)."""
    found = {name: (lambda side, way=way: way(side // PIXELS_PER_CELL, steps)) for name, way in Paths(idle_model()).ways().items()}
    return {**found, **networks()}


def networks() -> dict[str, Callable[[int], object]]:
    upscaler = LatentUpscaler(LSR(), LatentSpace("SDXL", 4), "bench")
    vae = World().vae
    any_scale = AnyScale(vae, LoadedDecoder(HybridDecoder.of(vae.first_stage_model, [16, 16]), "bench"))

    def enlarged(side):
        cells = side // PIXELS_PER_CELL
        return upscaler.upscale(torch.zeros(1, 4, cells // 2, cells // 2), cells, cells)

    def decoded(side):
        cells = side // PIXELS_PER_CELL // 4
        return any_scale.decode(torch.zeros(1, 4, cells, cells), side, side, 64, 16)

    return {LSR_TWICE: enlarged, DECODER: decoded}


def fits(found: list[Growth]) -> bool:
    """Print what SDXL takes at the limited size with one region a call, in half precision; whether that is within budget."""
    model = idle_model().model
    model.diffusion_model.dtype = torch.float16
    with mock.patch.object(comfy.model_management, "pytorch_attention_flash_attention", return_value=True):  # as a GPU has it
        call = model.memory_required([2, 4, 128, 128])
    canvases = {growth.name: growth.mebibytes[growth.sides.index(LIMITED)] * 2**20 for growth in found if LIMITED in growth.sides}
    totals = {name: SDXL_WEIGHTS + call + canvas for name, canvas in canvases.items() if name != STOCK}
    print(f"SDXL at {LIMITED} x {LIMITED}: weights {SDXL_WEIGHTS / 1e9:.2f} GB, one region with two prompts {call / 1e9:.2f} GB by ComfyUI's estimate, and the canvas as counted")
    for name, total in totals.items():
        print(f"{name:20} {total / 1e9:.2f} GB")
    return max(totals.values(), default=0) <= BUDGET


@torch.inference_mode()
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384], help="of the canvas, pixels; LSR and the decoder go to 4096")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="WAY", help="words that a way's name begins with")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    comfy.utils.set_progress_bar_enabled(False)
    print(f"Canvases of {', '.join(map(str, options.sides))} pixels a side, {options.steps} steps")
    found = []
    for name, work in ways(options.steps).items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        sides = [side for side in options.sides if side <= 4096] if name in (LSR_TWICE, DECODER) else options.sides
        found.append(Growth(name, work, sides))
        print(found[-1], flush=True)
    return 0 if fits(found) and all(growth.is_linear for growth in found) else 1
