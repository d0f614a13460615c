"""Resizing by area: every cell of the result is the mean of the cells that it overlaps, whole ones, as in torch's
adaptive average pooling."""

import torch
import torch.nn.functional as F

POOLING = ("cpu", "cuda", "xpu")  # devices that pool to any size; Apple's only to sizes that divide


def area_resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(..., H, W) as (..., height, width), smaller or larger; every channel and frame by itself."""
    if x.device.type not in POOLING:
        return _by_matrices(x, height, width)
    planes = x.reshape(-1, 1, *x.shape[-2:])
    return F.adaptive_avg_pool2d(planes, (height, width)).reshape(*x.shape[:-2], height, width)


def averages(length: int, count: int, like: torch.Tensor) -> torch.Tensor:
    """(count, length) matrix that resizes an axis of `length` cells to `count`, on `like`'s device and in its dtype."""
    i = torch.arange(count, device=like.device)[:, None]
    cells = torch.arange(length, device=like.device)
    # cell i begins at i * length / count and ends at (i + 1) * length / count, whole cells counted
    overlaps = ((cells + 1) * count > i * length) & (cells * count < (i + 1) * length)
    return overlaps.to(like.dtype) / overlaps.sum(1, keepdim=True)


def _by_matrices(x, height, width):
    rows, columns = (averages(length, count, x) for length, count in zip(x.shape[-2:], (height, width)))
    return rows @ x @ columns.mT
