"""Latent super-resolution of LSRNA (Jeong et al., CVPR 2025): a SwinIR encoder (Liang et al., 2021)
under a LIIF head (Chen et al., CVPR 2021), any target size."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from ...methods.regions import Region

QUERIES_PER_CHUNK = 16384


class Encoder(SwinIR):
    """SwinIR up to the features that its upsampler would read, (B, C, h, w) -> (B, 64, h, w)."""

    def __init__(self, **args):
        super().__init__(upsampler="pixelshuffle", upscale=1, **args)
        del self.conv_last
        for layer in self.layers:
            for block in layer.residual_group.blocks:
                # the stored mask fits one training size; without it the block computes the mask of its input
                block.input_resolution = block.attn_mask = None

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h, w = z.shape[-2:]
        x = self.conv_first(self.check_image_size(z))
        x = self.conv_after_body(self.forward_features(x)) + x
        return self.conv_before_upsample(x)[..., :h, :w]


class MLP(nn.Module):
    """The LIIF head's linear layers, with ReLU between them; `layers` keeps the published keys."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        layers = [nn.Linear(sizes[0], sizes[1])]
        for a, b in zip(sizes[1:], sizes[2:]):
            layers += [nn.ReLU(), nn.Linear(a, b)]
        self.layers = nn.Sequential(*layers)


class LSR(nn.Module):
    """z (B, C, h, w) -> (B, C, H, W), scaled latents, float32, for any H and W.

    channels: latent channels C. dim, depths, heads, window, mlp_ratio: the Swin encoder. hidden: widths
    of the LIIF head. drop_path: stochastic depth in train() (the paper trains with 0.1). The network
    starts in eval().
    """

    def __init__(
        self,
        channels: int = 4,
        dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6),
        window: int = 8,
        mlp_ratio: float = 2.0,
        hidden: Sequence[int] = (256, 256, 256, 256),
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.args = {
            "channels": channels,
            "dim": dim,
            "depths": list(depths),
            "heads": list(heads),
            "window": window,
            "mlp_ratio": mlp_ratio,
            "hidden": list(hidden),
        }
        self.encoder = Encoder(
            img_size=4 * window,
            in_chans=channels,
            embed_dim=dim,
            depths=list(depths),
            num_heads=list(heads),
            window_size=window,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path,
        )
        self.features = self.encoder.conv_before_upsample[0].out_channels
        # 3x3 unfolded features, offset to the low-resolution cell (y, x), size of the target cell (y, x)
        self.imnet = MLP([9 * self.features + 4, *hidden, channels])
        self.eval()

    def forward(
        self,
        z: torch.Tensor,
        size: tuple[int, int],
        chunk_rows: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Upscale z to size (H, W), `chunk_rows` output rows at a time (by default 16384 queries).

        progress(done, total) is called with output rows after each chunk. h and w must be above 4
        where they are no multiple of the window, because the encoder pads by reflection.
        """
        height, width = size
        rows = chunk_rows or self.chunk_rows(z.shape[0], width)
        grid = self.embed(self.encoder(z), size)
        out = F.interpolate(z, size, mode="bicubic")
        for y in range(0, height, rows):
            band = Region(y, 0, min(rows, height - y), width)
            band.crop(out).add_(self.query(grid, size, band))
            if progress is not None:
                progress(y + band.height, height)
        return out

    def window(self, z: torch.Tensor, size: tuple[int, int], region: Region, features: torch.Tensor | None = None) -> torch.Tensor:
        """The part of `forward(z, size)` inside `region` (cells of the H x W grid), differentiable,
        without the cost of the rest. Pass `features` (`encoder(z)`) when windows of several sizes
        share one encoder call."""
        if features is None:
            features = self.encoder(z)
        return region.crop(F.interpolate(z, size, mode="bicubic")) + self.query(self.embed(features, size), size, region)

    def embed(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The head's first layer without the offsets, once per low-resolution cell: (B, h, w, hidden).

        The layer is linear, so its product with the unfolded features is one 3x3 convolution.
        """
        first = self.imnet.layers[0]
        kernel = first.weight[:, :-4].unflatten(1, (self.features, 3, 3))
        cell = first.weight.new_tensor([2 * features.shape[-2] / size[0], 2 * features.shape[-1] / size[1]])
        bias = first.bias + first.weight[:, -2:] @ cell
        return F.conv2d(features, kernel, bias, padding=1).permute(0, 2, 3, 1).contiguous()

    def query(self, grid: torch.Tensor, size: tuple[int, int], region: Region) -> torch.Tensor:
        """The head's residual (B, C, region.height, region.width) of `embed`'s grid at target `size`."""
        first, *inner, last = (layer for layer in self.imnet.layers if isinstance(layer, nn.Linear))
        to_y, to_x = first.weight[:, -4], first.weight[:, -3]
        rows = axis_neighbours(grid.shape[1], size[0], region.y, region.height, grid.device)
        columns = axis_neighbours(grid.shape[2], size[1], region.x, region.width, grid.device)

        mean = grid.new_zeros(())
        for y, dy, wy in rows:
            row = grid[:, y] + (dy[:, None] * to_y)[:, None]
            for x, dx, wx in columns:
                hidden = F.relu_(row[:, :, x].add_(dx[:, None] * to_x))
                for layer in inner:
                    hidden = F.relu_(layer(hidden))
                mean = torch.addcmul(mean, hidden, (wy[:, None] * wx)[..., None])
        # the last layer is linear and the weights sum to one: it is applied to the mean
        return last(mean).permute(0, 3, 1, 2)

    def memory(self, h: int, w: int, height: int, width: int, rows: int) -> int:
        """Bytes that upscaling one (h, w) picture to (height, width) takes in chunks of `rows`."""
        window, hidden = self.args["window"] ** 2, max(self.args["hidden"])
        encoder = h * w * (8 * self.args["dim"] + (3 * max(self.args["heads"]) + 1) * window)
        grid = h * w * (self.features + 2 * hidden)
        chunk = rows * width * 4 * hidden
        return 4 * (max(encoder, grid + chunk) + 3 * height * width * self.args["channels"])

    @staticmethod
    def chunk_rows(batch: int, width: int) -> int:
        """Output rows of a default chunk at `width` output columns."""
        return max(1, QUERIES_PER_CHUNK // (batch * width))


def axis_neighbours(low: int, high: int, start: int, count: int, device: torch.device | str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """LIIF's two neighbours along one axis of `low` cells for `count` of `high` query points.

    Returns (index, offset, weight) for the one before and the one after. Offsets are exact, in LIIF's
    units (one low-resolution cell is 2). A weight is the other neighbour's share of the distance;
    beyond the border, where both are the same cell, and on top of that cell, it is one half.
    """
    k = torch.arange(start, start + count, device=device)
    numerator = (2 * k + 1) * low - high
    before = numerator.div(2 * high, rounding_mode="floor")
    index = torch.stack([before, before + 1]).clamp(0, low - 1)
    offset = (numerator - 2 * high * index).to(torch.float32) / high
    distance = offset.abs()
    total = distance.sum(0)
    weight = torch.where(total > 0, distance.flip(0) / total, 0.5)
    return list(zip(index, offset, weight))
