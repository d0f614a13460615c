"""Overlapping regions of a latent canvas.

All coordinates are latent cells. The view grid and the jitter are those of DemoFusion
(Du et al., CVPR 2024) as its pipeline draws them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Cells = TypeVar("Cells", torch.Tensor, np.ndarray)

BLENDS = ("uniform", "gaussian", "linear")


class Region(NamedTuple):
    """A rectangle of the canvas, in latent cells."""

    y: int
    x: int
    height: int
    width: int

    def crop(self, tensor: Cells) -> Cells:
        """View of the last two dimensions of `tensor` (..., H, W) inside this region."""
        return tensor[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def overlap(self, other: "Region") -> int:
        """Cells that both cover."""
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        return max(height, 0) * max(width, 0)


def axis_starts(length: int, region: int, stride: int) -> list[int]:
    """Starts of the regions along one axis: every `stride` cells, the last one shifted back to end
    at `length`. A region longer than the axis covers it once."""
    region = min(region, length)
    count = -(-(length - region) // stride) + 1
    return [min(i * stride, length - region) for i in range(count)]


def jitter_range(region: int, stride: int) -> int:
    """DemoFusion's jitter of a region, in cells: a quarter of the overlap."""
    return (region - stride) // 4


@dataclass(frozen=True)
class RegionLayout:
    """A canvas of `height` x `width` latent cells covered by equal regions.

    `region_height`, `region_width` and the strides are cells; a region longer than the canvas is
    clamped to it. `blend` weights the overlaps: "uniform" (the papers), "gaussian" (std 1/8 of the
    region) or "linear" (a ramp across the overlap). `pixels_per_cell`: what the cells were taken for
    where sizes in pixels became these; the model's may be others. `patch`: regions move by multiples of it, cells.

    Raises ValueError for sizes below 1, a stride longer than the region (it would leave gaps) and
    an unknown blend.
    """

    height: int
    width: int
    region_height: int
    region_width: int
    stride_height: int
    stride_width: int
    blend: str = "uniform"
    pixels_per_cell: int | None = None
    patch: int = 1

    def __post_init__(self):
        if self.blend not in BLENDS:
            raise ValueError(f"blend is {self.blend!r}; use one of {', '.join(BLENDS)}.")
        for axis in ("height", "width"):
            length, region, stride = (getattr(self, name) for name in (axis, f"region_{axis}", f"stride_{axis}"))
            if length < 1 or region < 1:
                raise ValueError(f"The canvas {axis} is {length} and the region {axis} {region} latent cells; both must be at least 1.")
            if not 1 <= stride <= region:
                raise ValueError(f"stride_{axis} is {stride} latent cells; it must be between 1 and the region {axis} ({region}), or the regions leave gaps.")
            object.__setattr__(self, f"region_{axis}", min(region, length))
            object.__setattr__(self, f"stride_{axis}", min(stride, length))

    @classmethod
    def from_overlap(cls, height: int, width: int, region_height: int, region_width: int, overlap: float = 0.5, blend: str = "uniform", multiple: int = 1) -> "RegionLayout":
        """Layout whose neighbors share the fraction `overlap` (0 <= overlap < 1) of a region.

        The stride is int(region * (1 - overlap)) cells, at least 1; the papers use 0.5. Regions smaller
        than the canvas, and strides, are rounded down to a `multiple` of cells, at least one.
        """
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}; it is a fraction of the region, from 0 to below 1.")
        # a region clamped to the canvas keeps the overlap fraction
        region_height, region_width = (length if region >= length else min(_rounded(region, multiple), length) for region, length in ((region_height, height), (region_width, width)))
        stride_height, stride_width = (min(_rounded(region * (1 - overlap) + 1e-6, multiple), region) for region in (region_height, region_width))
        return cls(height, width, region_height, region_width, stride_height, stride_width, blend, patch=multiple)

    def rescaled(self, height: int, width: int) -> "RegionLayout":
        """The same regions on a canvas of `height` x `width` larger or smaller cells.

        Raises ValueError where they would not fall on whole cells.
        """
        y, x = height / self.height, width / self.width
        sides = (self.region_height * y, self.region_width * x, self.stride_height * y, self.stride_width * x)
        if any(side != round(side) for side in sides):
            raise ValueError(f"regions is a layout of {self.region_width} x {self.region_height} cells every {self.stride_width} x {self.stride_height}, of which {1 / x:g} x {1 / y:g} make one of the model's. Connect the model to Region Layout, which then rounds them, or type sizes that are multiples of that.")
        return RegionLayout(height, width, *map(round, sides), self.blend)

    def rounded(self, multiple: int) -> "RegionLayout":
        """Regions smaller than the canvas, and strides, rounded down to a `multiple` of cells, at least one."""
        height, width = (length if region == length else min(_rounded(region, multiple), length) for region, length in ((self.region_height, self.height), (self.region_width, self.width)))
        down, right = min(_rounded(self.stride_height, multiple), height), min(_rounded(self.stride_width, multiple), width)
        return replace(self, region_height=height, region_width=width, stride_height=down, stride_width=right, patch=multiple)

    @property
    def axes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(canvas, region, stride) along y and x, cells."""
        return (self.height, self.region_height, self.stride_height), (self.width, self.region_width, self.stride_width)

    @property
    def starts(self) -> tuple[list[int], list[int]]:
        """Rows and columns at which regions begin."""
        return axis_starts(self.height, self.region_height, self.stride_height), axis_starts(self.width, self.region_width, self.stride_width)

    @property
    def count(self) -> int:
        """How many regions there are."""
        rows, columns = self.starts
        return len(rows) * len(columns)

    @property
    def regions(self) -> list[Region]:
        """The regions in row-major order."""
        rows, columns = self.starts
        return [Region(y, x, self.region_height, self.region_width) for y in rows for x in columns]

    def weights(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Blend weight of each cell of a region, (region_height, region_width), positive everywhere."""
        rows = _axis_weights(self.region_height, self.stride_height, self.blend)
        columns = _axis_weights(self.region_width, self.stride_width, self.blend)
        return (rows[:, None] * columns).to(device, dtype)


def _rounded(cells, multiple):
    return max(int(cells) // multiple, 1) * multiple


def _axis_weights(region, stride, blend):
    center = torch.arange(region, dtype=torch.float32) + 0.5
    if blend == "gaussian":
        return torch.exp(-0.5 * ((center / region - 0.5) / 0.125) ** 2)
    if blend == "linear" and stride < region:
        return (torch.minimum(center, region - center) / (region - stride)).clamp(max=1)
    return torch.ones(region)


def crop_images(images: torch.Tensor, layout: RegionLayout) -> list[torch.Tensor]:
    """The regions of images (B, h, w, C) of any resolution, as (B, ., ., C) of equal size."""
    height, width = images.shape[1:3]
    y, x = height / layout.height, width / layout.width
    rows, columns = max(1, round(layout.region_height * y)), max(1, round(layout.region_width * x))
    crops = []
    for region in layout.regions:
        top, left = min(round(region.y * y), height - rows), min(round(region.x * x), width - columns)
        crops.append(images[:, top : top + rows, left : left + columns])
    return crops


def jittered(layout: RegionLayout, jitter: int, rng: random.Random, multiple: int = 1) -> list[Region]:
    """The layout's regions, each moved by up to `jitter` cells, in coordinates of the canvas padded
    by `jitter` on all four sides.

    A region inside the canvas moves by -jitter..jitter along an axis, one at its start by
    -jitter..0, one at its end by 0..jitter; one that spans the axis stays and draws nothing. Per
    region the column is drawn before the row, as DemoFusion does. `jitter` 0 only leaves the layout.
    Regions move by a `multiple` of cells; `jitter` must be one too.

    Raises ValueError when neighbors could move apart: `jitter` above half the overlap.
    """
    for axis, length, region, stride in (
        ("height", layout.height, layout.region_height, layout.stride_height),
        ("width", layout.width, layout.region_width, layout.stride_width),
    ):
        if region < length and 2 * jitter > region - stride:
            raise ValueError(f"jitter is {jitter} latent cells; at a {axis} overlap of {region - stride} cells use at most {(region - stride) // 2}, or the regions leave gaps.")

    moved = []
    for y, x, height, width in layout.regions:
        x += _draw(x, width, layout.width, jitter // multiple, rng) * multiple
        y += _draw(y, height, layout.height, jitter // multiple, rng) * multiple
        moved.append(Region(y + jitter, x + jitter, height, width))
    return moved


def shifted_count(layout: RegionLayout) -> int:
    """How many regions `shifted` gives, the same at every step."""
    rows, columns = (_shifted_axis(*axis)[0] for axis in layout.axes)
    return rows * columns


def shifted(layout: RegionLayout, rng: random.Random, multiple: int = 1) -> list[Region]:
    """The layout's grid moved as a whole by a random offset, its outermost regions pushed back into the canvas.

    With a new offset at every step no border stays in one place, so that regions need no overlap. Offsets are multiples
    of `multiple` cells; an axis that one region spans does not move and draws nothing.
    """
    starts = []
    for length, region, stride in layout.axes:
        count, slack = _shifted_axis(length, region, stride)
        offset = rng.randint(0, slack // multiple) * multiple if slack else 0
        starts.append([min(max(i * stride - offset, 0), length - region) for i in range(count)])
    return [Region(y, x, layout.region_height, layout.region_width) for y in starts[0] for x in starts[1]]


def _shifted_axis(length, region, stride):
    """Regions along an axis, and how far they can move; one more than cover it where it would be less than half a stride."""
    if region >= length:
        return 1, 0
    count = -(-(length - region) // stride) + 1
    slack = region + (count - 1) * stride - length
    return (count, slack) if 2 * slack >= stride else (count + 1, slack + stride)


def _draw(start, region, length, jitter, rng):
    at_start, at_end = start == 0, start + region == length
    if jitter == 0 or (at_start and at_end):
        return 0
    return rng.randint(0 if at_end else -jitter, 0 if at_start else jitter)


def merge(parts: Sequence[torch.Tensor], regions: Sequence[Region], height: int, width: int, weights: torch.Tensor, border: int = 0, count: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted mean of overlapping region outputs.

    parts: one (..., region_height, region_width) tensor per region. weights: (region_height,
    region_width). border: the padding of the coordinates that `regions` are in (the jitter). count:
    their `coverage`, if it is known.
    Returns (..., height, width); every cell must be covered.
    """
    total = parts[0].new_zeros(*parts[0].shape[:-2], height + 2 * border, width + 2 * border)
    for part, region in zip(parts, regions, strict=True):
        region.crop(total).add_(part * weights)
    return Region(border, border, height, width).crop(total) / (coverage(regions, height, width, weights, border) if count is None else count)


def coverage(regions: Sequence[Region], height: int, width: int, weights: torch.Tensor, border: int = 0) -> torch.Tensor:
    """Sum of the weights on each cell, (height, width); see `merge`."""
    count = weights.new_zeros(height + 2 * border, width + 2 * border)
    for region in regions:
        region.crop(count).add_(weights)
    return Region(border, border, height, width).crop(count)
