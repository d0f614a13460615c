"""LIIF's local implicit head (Chen et al., CVPR 2021): values at any point of a feature map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# feature indices, offsets and weights of the query points along one axis
Neighbors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class LIIF(nn.Module):
    """An MLP of [features, offset (y, x), cell (y, x)], averaged over the four nearest features of a query point.

    channels: of the feature map. out: channels of the answer. hidden: widths of the linear layers, ReLU
    between them. unfold: side of the square of features that the MLP sees, 1 or 3. cell: whether it sees
    the size of the target cell. `layers` keeps the published keys.
    """

    def __init__(self, channels: int, out: int, hidden: Sequence[int], unfold: int = 1, cell: bool = True):
        super().__init__()
        self.channels, self.unfold = channels, unfold
        sizes = [channels * unfold**2 + (4 if cell else 2), *hidden, out]
        layers = [nn.Linear(sizes[0], sizes[1])]
        for a, b in zip(sizes[1:], sizes[2:]):
            layers += [nn.ReLU(), nn.Linear(a, b)]
        self.layers = nn.Sequential(*layers)

    def embed(self, features: torch.Tensor, cell: tuple[float, float]) -> torch.Tensor:
        """The first layer without the offsets, once per feature: (B, C, h, w) -> (B, h, w, hidden).

        The layer is linear, so its product with the unfolded features is one convolution. cell: height
        and width of a target cell in LIIF's units, in which a feature cell is 2.
        """
        first, side = self.layers[0], self.unfold
        seen = self.channels * side**2
        kernel = first.weight[:, :seen].unflatten(1, (self.channels, side, side))
        of_cell = first.weight[:, seen + 2 :]
        # filled on the device: a tensor of Python numbers would be copied to it, and the device waited for
        size = torch.cat([of_cell.new_empty(0), *(of_cell.new_full((1,), side) for side in cell[: of_cell.shape[1]])])
        bias = first.bias + of_cell @ size
        return F.conv2d(features, kernel, bias, padding=side // 2).permute(0, 2, 3, 1).contiguous()

    def query(self, grid: torch.Tensor, rows: list[Neighbors], columns: list[Neighbors]) -> torch.Tensor:
        """The answers (B, out, H, W) of `embed`'s grid at the points of `axis_neighbors`."""
        first, *inner, last = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        seen = self.channels * self.unfold**2
        to_y, to_x = first.weight[:, seen], first.weight[:, seen + 1]

        mean = first.weight.new_zeros(grid.shape[0], len(rows[0][0]), len(columns[0][0]), last.in_features)
        for y, dy, wy in rows:
            row = grid[:, y] + (dy[:, None] * to_y)[:, None]
            for x, dx, wx in columns:
                hidden = F.relu_(row[:, :, x].add_(dx[:, None] * to_x))
                for layer in inner:
                    hidden = F.relu_(layer(hidden))
                mean.addcmul_(hidden, (wy[:, None] * wx)[..., None])
        # the last layer is linear and the weights sum to one: it is applied to the mean
        return last(mean).permute(0, 3, 1, 2)


def axis_neighbors(low: int, high: int, start: int, count: int, device: torch.device | str, ensemble: bool = True) -> list[Neighbors]:
    """LIIF's two neighbors along one axis of `low` cells for `count` of `high` query points.

    Returns (index, offset, weight) for the one before and the one after. Offsets are exact, in LIIF's
    units (one low-resolution cell is 2). A weight is the other neighbor's share of the distance;
    beyond the border, where both are the same cell, and on top of that cell, it is one half. Without
    `ensemble`, the nearest one alone; halfway, the even one, as grid_sample rounds.
    """
    k = torch.arange(start, start + count, device=device)
    numerator = (2 * k + 1) * low - high
    before = numerator.div(2 * high, rounding_mode="floor")
    if ensemble:
        index = torch.stack([before, before + 1])
    else:
        past_half = numerator - 2 * high * before - high
        index = (before + ((past_half > 0) | (past_half == 0) & (before % 2 == 1)))[None]
    index = index.clamp(0, low - 1)
    offset = (numerator - 2 * high * index).to(torch.float32) / high
    if not ensemble:
        return list(zip(index, offset, torch.ones_like(offset)))
    distance = offset.abs()
    total = distance.sum(0)
    weight = torch.where(total > 0, distance.flip(0) / total, 0.5)
    return list(zip(index, offset, weight))


def axis_span(low: int, high: int, start: int, count: int) -> tuple[int, int]:
    """First and one past the last cell that `axis_neighbors` names."""
    before, last = (((2 * k + 1) * low - high) // (2 * high) for k in (start, start + count - 1))
    return max(before, 0), min(last + 2, low)
