"""Which patches PixelSmith visits, and which of them can share a network call.

The visited pixels do not depend on what the network returns, so a whole run is drawn before its first
call. A patch waits only for earlier patches that wrote what it reads; everything else runs together.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from .regions import Region, axis_starts

ORDERS = ("random", "cover")
RING = 10  # cells around its own pixels in which a patch is averaged into what is there
CHUNK = 1024


class Patch(NamedTuple):
    """One visit: `region` of the canvas, and the parity (0, 1) of the checkerboard that guidance overwrites."""

    region: Region
    shift: int


class Sweep(NamedTuple):
    """All patches that take every pixel one step on, in their order, and the indices that run together.

    Running the waves one after another, each reading before any of it writes, equals running the
    patches one by one.
    """

    patches: list[Patch]
    waves: list[list[int]]

    def calls(self, batch: int) -> int:
        """Network calls for at most `batch` patches each; the method as published makes len(patches)."""
        return sum(-(-len(wave) // batch) for wave in self.waves)


def check_guided_steps(guided_steps: int, steps: int) -> None:
    """Raises ValueError outside 1 to `steps`."""
    if not 1 <= guided_steps <= steps:
        raise ValueError(f"guided_steps is {guided_steps}; it counts steps from the first, so use 1 to {steps}.")


def plan(height: int, width: int, size: int, steps: int, guided_steps: int, seed: int, order: str = "random") -> list[Sweep]:
    """The sweeps of a run of `steps` steps on a canvas of `height` x `width` cells with patches of `size`.

    order: "random" visits pixels as published. "cover" is a variant: the fewest patches that cover the
    canvas, in every second sweep moved by half a patch.

    Raises ValueError for a patch that is odd or larger than the canvas, `guided_steps` outside 1 to
    `steps`, and an unknown order.
    """
    if size < 2 or size % 2:
        raise ValueError(f"patch_size is {size} latent cells; patches have a center, so use an even number from 2.")
    for axis, length in (("height", height), ("width", width)):
        if length < size:
            raise ValueError(f"The canvas {axis} is {length} latent cells and patch_size {size}; every side must hold a patch. Enlarge the guide's {axis} or lower patch_size.")
    check_guided_steps(guided_steps, steps)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; use one of {', '.join(ORDERS)}.")

    generator = torch.Generator().manual_seed(seed)
    sweeps = []
    for step in range(steps):
        regions = random_regions(height, width, size, generator) if order == "random" else cover_regions(height, width, size, step % 2)
        patches = [Patch(region, int(torch.randint(2, (1,), generator=generator))) for region in regions]
        sweeps.append(Sweep(patches, waves(patches, height, width, mixes=0 < step < guided_steps)))
    return sweeps


def guided_by_level(timesteps: Sequence[float], until: float) -> int:
    """Steps that follow the guidance where those that start at timestep 999 `until` or above do; one at least, and where
    there are several not all. timesteps: of the levels that the steps start from."""
    count = sum(t >= 999 * until for t in timesteps)
    return min(max(count, 1), max(len(timesteps) - 1, 1))


def random_regions(height: int, width: int, size: int, generator: torch.Generator) -> Iterator[Region]:
    """Regions around pixels picked uniformly among those that no earlier region holds, kept inside the
    canvas, until all are covered."""
    # the next pixel left in one random order is uniform among all that are left
    order = torch.randperm(height * width, generator=generator).numpy()
    left = np.ones((height, width), dtype=bool)
    for start in range(0, len(order), CHUNK):
        pixels = order[start : start + CHUNK]
        for pixel in pixels[left.flat[pixels]]:
            row, column = divmod(int(pixel), width)
            if left[row, column]:
                y, x = (min(max(center - size // 2, 0), length - size) for center, length in ((row, height), (column, width)))
                left[y : y + size, x : x + size] = False
                yield Region(y, x, size, size)


def cover_regions(height: int, width: int, size: int, moved: int) -> list[Region]:
    """The fewest regions that cover the canvas, evenly spread; `moved` 1 starts half a region earlier."""
    rows, columns = (even_starts(length, size, moved) for length in (height, width))
    return [Region(y, x, size, size) for y in rows for x in columns]


def even_starts(length: int, size: int, moved: int) -> list[int]:
    half = size // 2 * moved
    return sorted({min(max(start - half, 0), length - size) for start in axis_starts(length + 2 * half, size, size)})


def reached(todo: np.ndarray) -> np.ndarray:
    """The 1s of `todo` (h, w), uint8, and what lies up to `RING` rows and columns from them."""
    return cv2.dilate(todo, np.ones((2 * RING + 1, 2 * RING + 1), dtype=np.uint8))


def waves(patches: Sequence[Patch], height: int, width: int, mixes: bool) -> list[list[int]]:
    """Indices of `patches` by the wave at which they can run.

    mixes: the sweep mixes phases, so that a patch reads what earlier ones wrote. Otherwise the
    network only sees the state before the sweep, and one wave holds them all.
    """
    if not mixes:
        return [list(range(len(patches)))]
    left = np.ones((height, width), dtype=np.uint8)
    # per pixel, the last wave that wrote it and the last that read it, counted from 1
    written = np.zeros((height, width), dtype=np.int32)
    read = np.zeros_like(written)
    out = []
    for i, patch in enumerate(patches):
        own = patch.region.crop(left)
        writes = reached(own).astype(bool)
        wrote, reads = patch.region.crop(written), patch.region.crop(read)
        wave = max(wrote.max() + 1, reads[writes].max())
        wrote[writes] = wave
        np.maximum(reads, wave, out=reads)
        own[:] = 0
        if wave > len(out):
            out.append([])
        out[wave - 1].append(i)
    return out
