"""The canvas, and parts of it that the network is shown as images of their own."""

import math
from typing import NamedTuple

import torch

from ..methods.regions import Region
from ..methods.resize import area_resize
from .families import region_multiple, token_size


class Canvas(NamedTuple):
    """A latent of `height` x `width` cells. pixels_per_cell: to the side of a cell; patch: cells that regions are
    multiples of, which is the side of a token for most networks and 1 for convolutional ones."""

    height: int
    width: int
    pixels_per_cell: int = 8
    patch: int = 1

    @classmethod
    def of(cls, model, height: int, width: int) -> "Canvas":
        """For the latents and the network of `model` (BaseModel)."""
        return cls(height, width, model.latent_format.spacial_downscale_ratio, math.lcm(patch_size(model.diffusion_model), region_multiple(model.diffusion_model)))

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def pixels(self) -> tuple[int, int]:
        return self.height * self.pixels_per_cell, self.width * self.pixels_per_cell


class Axis(NamedTuple):
    """Cells offset, offset + step, ... of one axis of the canvas; cells outside repeat the border."""

    offset: int
    step: int
    count: int

    def take(self, tensor: torch.Tensor, dim: int, ratio: int = 1) -> torch.Tensor:
        start, count, length = self.offset * ratio, self.count * ratio, tensor.shape[dim]
        if start >= 0 and start + self.step * (count - 1) < length:
            index = [slice(None)] * tensor.ndim
            index[dim] = slice(start, start + self.step * (count - 1) + 1, self.step)
            return tensor[tuple(index)]
        index = torch.arange(count, device=tensor.device) * self.step + start
        return tensor.index_select(dim, index.clamp(0, length - 1))

    def clip(self, start: int, size: int) -> tuple[int, int] | None:
        """Start and size, in this axis's own cells, of what it sees of `size` canvas cells at `start`."""
        first = max(-((self.offset - start) // self.step), 0)
        last = min(-((self.offset - start - size) // self.step), self.count)
        return (first, last - first) if first < last else None


class View(NamedTuple):
    """A part of the canvas shown to the network as an image of its own.

    size_ids are SDXL's (height, width, crop_top, crop_left, target_height, target_width) in pixels,
    None to leave what the conditioning says. Other models are told those of them that they know.
    """

    y: Axis
    x: Axis
    size_ids: tuple[int, int, int, int, int, int] | None = None

    @property
    def region(self) -> Region | None:
        """Where it lies on the canvas, None when it is spread over all of it."""
        return Region(self.y.offset, self.x.offset, self.y.count, self.x.count) if self.y.step == self.x.step == 1 else None

    def latent(self, tensor: torch.Tensor) -> torch.Tensor:
        """This view of a (..., H, W) tensor on the latent grid."""
        return self.x.take(self.y.take(tensor, -2), -1)

    def pixels(self, image: torch.Tensor, ratio: int) -> torch.Tensor:
        """This view of a (..., H * ratio, W * ratio) image. Every dilated view is the whole image,
        made small."""
        if self.y.step == 1:
            return self.x.take(self.y.take(image, -2, ratio), -1, ratio)
        for dim, axis in ((-2, self.y), (-1, self.x)):
            covered = axis.step * axis.count
            image = Axis(image.shape[dim] // ratio - covered, 1, covered).take(image, dim, ratio)
        return area_resize(image, self.y.count * ratio, self.x.count * ratio)

    def coarse(self, image: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
        """This view of an image (..., h, w) of the canvas, whose elements stand for `cells` (height, width). Every
        dilated view is the whole image, made small.

        Raises ValueError where the view holds a part of one.
        """
        if any(side % size for axis, size in zip(self[:2], cells) for side in (axis.count, axis.offset if axis.step == 1 else 0)):
            raise ValueError(f"{self.x.count} x {self.y.count} cells at column {self.x.offset}, row {self.y.offset} are no multiples of {cells[1]} x {cells[0]}")
        size = tuple(axis.count // own for axis, own in zip(self[:2], cells))
        for dim, axis, own, count in zip((-2, -1), self[:2], cells, size):
            start = axis.offset // own if axis.step == 1 else image.shape[dim] - axis.step * count
            image = Axis(start, 1, axis.step * count).take(image, dim)
        return area_resize(image, *size) if self.region is None else image

    def area(self, area: tuple[int, ...]) -> tuple[int, ...] | None:
        """ComfyUI's (..., height, width, ..., y, x) clipped to this view, None when they do not meet."""
        n = len(area) // 2
        y, x = self.y.clip(area[-2], area[n - 2]), self.x.clip(area[-1], area[n - 1])
        if y is None or x is None:
            return None
        return (*area[: n - 2], y[1], x[1], *area[n:-2], y[0], x[0])

    def within(self, area: tuple[int, ...]) -> "View":
        """What this view sees of an area, as a view of a canvas that is the area alone."""
        seen, n = self.area(area), len(area) // 2
        y, x = (Axis(axis.offset + axis.step * first - start, axis.step, count) for axis, first, start, count in zip(self[:2], seen[-2:], area[-2:], seen[n - 2 : n]))
        return View(y, x, self.size_ids)


class SmallView(NamedTuple):
    """The whole canvas shown as one small image of `height` x `width` cells; otherwise as `View`."""

    height: int
    width: int
    canvas: tuple[int, int]
    size_ids: tuple[int, int, int, int, int, int] | None = None

    region = None

    def latent(self, tensor: torch.Tensor) -> torch.Tensor:
        return area_resize(tensor, self.height, self.width)

    def pixels(self, image: torch.Tensor, ratio: int) -> torch.Tensor:
        return area_resize(image, self.height * ratio, self.width * ratio)

    def coarse(self, image: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
        return area_resize(image, max(1, self.height // cells[0]), max(1, self.width // cells[1]))

    def area(self, area: tuple[int, ...]) -> tuple[int, ...]:
        n = len(area) // 2
        y, x = self.height / self.canvas[0], self.width / self.canvas[1]
        return (*area[: n - 2], max(1, round(area[n - 2] * y)), max(1, round(area[n - 1] * x)), *area[n:-2], int(area[-2] * y), int(area[-1] * x))

    def within(self, area: tuple[int, ...]) -> "SmallView":
        n = len(area) // 2
        return SmallView(*self.area(area)[n - 2 : n], tuple(area[n - 2 : n]), self.size_ids)


class ViewPatch:
    """What a part changes of the network calls of an evaluation.

    one_by_one: only one view fits into a call.
    """

    one_by_one = False

    def options(self, options: dict, call, views: list | None) -> dict:
        """Model `options` for a network call of `call` (Call) on `views`, or on the whole canvas where None. `options`
        itself stays as it is."""
        return options

    def after(self) -> None:
        """The network has seen the views. Raises ValueError where it did not do what it should."""


def patch_size(network: torch.nn.Module) -> int:
    """Latent cells to the side of one token of `network`; 1 for convolutional ones."""
    names = ("patch_size", "patch_spatial", "patch")  # the last is Krea 2's
    size = next((size for name in names if (size := getattr(network, name, None))), None) or token_size(network)
    return size if isinstance(size, int) else size[-1]
