"""Denoising a canvas region by region (MultiDiffusion's fusion, DemoFusion's views)."""

import random
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from ..engine import Canvas, Part, Work
from ..engine.conditioning import has_region_prompts
from ..engine.positions import Placed, check_positions, is_compiled
from ..engine.views import Axis, View
from ..methods.noise import stream
from ..methods.regions import (
    Region,
    RegionLayout,
    coverage,
    jitter_range,
    jittered,
    merge,
    shifted,
    shifted_count,
)

SIZES = ("native", "canvas", "unchanged")


@dataclass(frozen=True)
class RegionalDenoise(Part):
    """How a canvas is cut.

    region, overlap, blend: see `RegionLayout.from_overlap`, cells; or a finished `layout`. jitter
    moves the regions at every step of the first `jitter_until` (share) of a run, drawn from `seed`; shift moves the whole
    grid at every step instead, for which no overlap is needed. regions_per_call: 0 for what fits into memory. sizes: what
    models with size conditioning are told about a region, "native" (an image of its own size), "canvas" (a crop of
    the canvas, counted from the jitter-padded border as DemoFusion does, of `canvas_pixels` (height, width) or the
    canvas itself) or "unchanged". positions: where rotary positions begin, at the "region" or at the "canvas".
    """

    title: ClassVar[str] = "Regional Denoise"
    key: ClassVar[str] = "regions"
    rank: ClassVar[int] = 30

    region: tuple[int, int] = (128, 128)
    overlap: float = 0.5
    blend: str = "uniform"
    layout: RegionLayout | None = None
    jitter: bool = False
    jitter_until: float = 1.0
    shift: bool = False
    seed: int = 0
    regions_per_call: int = 0
    sizes: str = "native"
    canvas_pixels: tuple[int, int] | None = None
    positions: str = "region"

    def check(self, model, canvas=None):
        if self.positions != "canvas":
            return
        check_positions(model.model)
        if canvas is not None and self.layout_of(canvas).count > 1 and is_compiled(model):
            raise ValueError("rope_positions is 'canvas', but model is compiled, and would place all regions where the first one lies. Set rope_positions to 'region', or remove TorchCompileModel.")

    def works(self, model, canvas, sigma, inner):
        layout = self.layout_of(canvas)
        count = shifted_count(layout) if self.shift else layout.count
        return [Work("regions", count, layout.region_height, layout.region_width, layout=layout)]

    def layout_of(self, canvas: Canvas) -> RegionLayout:
        """The regions of `canvas`. Raises ValueError where `layout` is one of another latent."""
        if self.layout is None:
            return RegionLayout.from_overlap(*canvas.size, *self.region, self.overlap, self.blend, canvas.patch)
        layout, pixels, cells = self.layout, self.layout.pixels_per_cell, canvas.pixels_per_cell
        if (layout.height, layout.width) != canvas.size:
            if not pixels or (round(layout.height * pixels / cells), round(layout.width * pixels / cells)) != canvas.size:
                raise ValueError(f"regions is a layout of {layout.width} x {layout.height} latent cells, the sampled latent has {canvas.width} x {canvas.height}. Connect the sampled latent to the Region Layout node, and the model to its model.")
            layout = layout.rescaled(*canvas.size)
        elif pixels and pixels != cells:
            raise ValueError(f"regions is a layout for latent cells of {pixels} pixels, the model's have {cells}: its regions would have another size than its widgets say. Connect the model to the Region Layout node.")
        return layout.rounded(canvas.patch)

    def jitter_of(self, layout: RegionLayout) -> int:
        spans = ((layout.region_height, layout.stride_height, layout.height), (layout.region_width, layout.stride_width, layout.width))
        ranges = [jitter_range(region, stride) for region, stride, length in spans if region < length]
        return min(ranges) // layout.patch * layout.patch if self.jitter and not self.shift else 0

    def draw(self, layout: RegionLayout, jitter: int, step) -> list[Region]:
        """The regions of a Step, in cells of the canvas padded by `jitter`."""
        if self.shift:
            return shifted(layout, random.Random(stream(self.seed, f"shift {getattr(step, 'level', step)}")), layout.patch)
        return jittered(layout, jitter, random.Random(stream(self.seed, f"jitter {getattr(step, 'level', step)}")), layout.patch)

    def evaluate(self, call, inner):
        """The denoised canvas of every guidance branch. One region is ComfyUI's own evaluation."""
        sampled = call.run.size
        if self.layout is not None and sampled is not None and call.canvas.size != sampled:
            raise ValueError(f"The sampler evaluates latents of {call.canvas.width} x {call.canvas.height} cells beside the canvas of {sampled[1]} x {sampled[0]}, and regions is a layout of the canvas. Choose another sampler, or set the regions' size in Regional Denoise instead.")
        layout = self.layout_of(call.canvas)
        if layout.count == 1 and not any(has_region_prompts(branch or []) for branch in call.conds):
            return inner(call)
        jitter = self.jitter_of(layout) if call.step < self.jitter_until * call.run.steps else 0
        cache = call.run.cache
        weights = cache.get(("weights", layout), lambda: layout.weights(call.x.device))
        # a layout that does not move is cut once a run
        regions, views, count = cache.get(("regions", layout, call.step if jitter or self.shift else None), lambda: self._cut(call, layout, jitter, weights))
        padded = F.pad(call.x, (jitter,) * 4)
        placed = call.patched(Placed(call.model)) if self.positions == "canvas" else call
        denoised = placed.predict_where_asked([region.crop(padded) for region in regions], views)
        return [merge(parts, regions, *call.canvas.size, weights, jitter, count) for parts in denoised]

    def _cut(self, call, layout, jitter, weights):
        regions = self.draw(layout, jitter, call.step)
        views = [View(Axis(r.y - jitter, 1, r.height), Axis(r.x - jitter, 1, r.width), self._size_ids(r, call.canvas)) for r in regions]
        return regions, views, coverage(regions, *call.canvas.size, weights, jitter)

    def _size_ids(self, region, canvas):
        return size_ids(self.sizes, region, self.canvas_pixels or canvas.pixels, canvas.pixels_per_cell)


def size_ids(sizes: str, region: Region, canvas_pixels: tuple[int, int], pixels_per_cell: int) -> tuple[int, int, int, int, int, int] | None:
    """What SDXL is told about `region`, see `RegionalDenoise`."""
    if sizes == "unchanged":
        return None
    if sizes == "native":
        height, width = region.height * pixels_per_cell, region.width * pixels_per_cell
        return (height, width, 0, 0, height, width)
    return (*canvas_pixels, region.y * pixels_per_cell, region.x * pixels_per_cell, *canvas_pixels)
