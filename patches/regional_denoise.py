"""Denoising a canvas region by region (MultiDiffusion's fusion, DemoFusion's views)."""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..engine.conditioning import has_region_prompts
from ..engine.sigmas import Step
from ..engine.views import Axis, View
from ..methods.noise import stream
from ..methods.regions import (
    Region,
    RegionLayout,
    coverage,
    jitter_range,
    jittered,
    merge,
)

SIZES = ("native", "canvas", "unchanged")


@dataclass(frozen=True)
class RegionalDenoise:
    """How a canvas is cut.

    region, overlap, blend: see `RegionLayout.from_overlap`, cells; or a finished `layout`. jitter
    moves the regions at every step, drawn from `seed`. batch: regions per network call, 0 for what
    fits in memory. sizes: what models with size conditioning are told about a region, "native" (a
    picture of its own size), "canvas" (a crop of the canvas, counted from the jitter-padded border as
    DemoFusion does, of `canvas_pixels` (height, width) or the canvas itself) or "unchanged".
    positions: where rotary positions begin, at the "region" or at the "canvas". patch: regions, strides
    and jitter are multiples of it, cells; that of the model.
    """

    region: tuple[int, int] = (128, 128)
    overlap: float = 0.5
    blend: str = "uniform"
    layout: RegionLayout | None = None
    jitter: bool = False
    seed: int = 0
    batch: int = 0
    sizes: str = "native"
    canvas_pixels: tuple[int, int] | None = None
    positions: str = "region"
    patch: int = 1
    pixels_per_cell: int | None = None

    def layout_of(self, height: int, width: int) -> RegionLayout:
        if self.layout is None:
            return RegionLayout.from_overlap(height, width, *self.region, self.overlap, self.blend, self.patch)
        if (self.layout.height, self.layout.width) != (height, width):
            pixels, cells = self.layout.pixels_per_cell, self.pixels_per_cell
            if pixels and cells and (round(self.layout.height * pixels / cells), round(self.layout.width * pixels / cells)) == (height, width):
                return self.layout.rescaled(height, width)
            raise ValueError(f"regions is a layout of {self.layout.width} x {self.layout.height} latent cells, the sampled latent has {width} x {height}. Connect the sampled latent to the Region Layout node.")
        return self.layout

    def count(self, height: int, width: int) -> int:
        return len(self.layout_of(height, width).regions)

    def largest(self, height: int, width: int) -> tuple[int, int, int]:
        """(regions at once, height, width) to make room for."""
        layout = self.layout_of(height, width)
        return min(self.batch or 1, len(layout.regions)), layout.region_height, layout.region_width

    def jitter_of(self, layout: RegionLayout) -> int:
        spans = ((layout.region_height, layout.stride_height, layout.height), (layout.region_width, layout.stride_width, layout.width))
        ranges = [jitter_range(region, stride) for region, stride, length in spans if region < length]
        return min(ranges) // self.patch * self.patch if self.jitter else 0

    def draw(self, layout: RegionLayout, jitter: int, step: Step) -> list[Region]:
        """The regions of a step, in cells of the canvas padded by `jitter`."""
        level = getattr(step, "level", float(step))
        return jittered(layout, jitter, random.Random(stream(self.seed, f"jitter {level:.6g}")), self.patch)

    def check_canvas(self, canvas: tuple[int, int], sampled: tuple[int, int]) -> None:
        """Raises ValueError where a sampler evaluates a latent of another size than the one that it samples, and the
        regions are a layout of that."""
        if self.layout is not None and canvas != sampled:
            raise ValueError(f"The sampler evaluates latents of {canvas[1]} x {canvas[0]} cells beside the canvas of {sampled[1]} x {sampled[0]}, and regions is a layout of the canvas. Choose another sampler, or set the regions' size in Regional Denoise instead.")

    def predict(self, call) -> list[torch.Tensor]:
        """The denoised canvas of every guidance branch. One region is ComfyUI's own evaluation."""
        layout = self.layout_of(*call.canvas)
        if len(layout.regions) == 1 and not any(has_region_prompts(branch or []) for branch in call.conds):
            return call.whole()
        jitter = self.jitter_of(layout)
        recent = call.state.recent
        weights = recent.get(("weights", layout), lambda: layout.weights(call.x.device))
        # a layout that does not move is cut once a run
        regions, views, count = recent.get(("regions", layout, call.cells, call.step if jitter else None), lambda: self._cut(call, layout, jitter, weights))
        padded = F.pad(call.x, (jitter,) * 4)
        denoised = call.views([region.crop(padded) for region in regions], views, placed=self.positions == "canvas")
        return [merge(parts, regions, *call.canvas, weights, jitter, count) for parts in denoised]

    def _cut(self, call, layout, jitter, weights):
        regions = self.draw(layout, jitter, call.step)
        views = [View(Axis(r.y - jitter, 1, r.height), Axis(r.x - jitter, 1, r.width), self._size_ids(r, call)) for r in regions]
        return regions, views, coverage(regions, *call.canvas, weights, jitter)

    def _size_ids(self, region, call):
        return size_ids(self.sizes, region, self.canvas_pixels or tuple(side * call.cells for side in call.canvas), call.cells)


def size_ids(sizes: str, region: Region, canvas_pixels: tuple[int, int], cells: int) -> tuple[int, int, int, int, int, int] | None:
    """What SDXL is told about `region`, see `RegionalDenoise`; `cells` are pixels per latent cell."""
    if sizes == "unchanged":
        return None
    if sizes == "native":
        height, width = region.height * cells, region.width * cells
        return (height, width, 0, 0, height, width)
    return (*canvas_pixels, region.y * cells, region.x * cells, *canvas_pixels)
