"""Latent super-resolution of LSRNA (Jeong et al., CVPR 2025): a SwinIR encoder (Liang et al., 2021)
under a LIIF head (Chen et al., CVPR 2021), any target size."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from ...methods.regions import Region
from ..liif import LIIF, axis_neighbors
from .attention import FusedWindowAttention

QUERIES_PER_CHUNK = 16384
QUERIES_IN_CACHE = 2048  # of a processor


class Encoder(SwinIR):
    """SwinIR up to the features that its upsampler would read, (B, C, h, w) -> (B, 64, h, w)."""

    def __init__(self, **args):
        super().__init__(upsampler="pixelshuffle", upscale=1, **args)
        del self.conv_last
        for block in self._blocks():
            block.attn = FusedWindowAttention(block.attn)
        self._use_masks(None, "cpu")  # those of the training size

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h, w = z.shape[-2:]
        x = self.conv_first(self.check_image_size(z))
        self._use_masks(tuple(x.shape[-2:]), x.device)
        x = self.conv_after_body(self.forward_features(x)) + x
        self._use_masks(None, x.device)
        return self.conv_before_upsample(x)[..., :h, :w]

    def _use_masks(self, size: tuple[int, int] | None, device: torch.device | str) -> None:
        """Give the blocks the masks of their shifted windows for features of `size`, made once and on the device: left
        to themselves, each makes its own on the CPU and waits until it is copied."""
        masks = {}
        for block in self._blocks():
            if size is not None and block.shift_size and block.shift_size not in masks:
                with torch.device(device):
                    masks[block.shift_size] = block.calculate_mask(size)
            block.input_resolution, block.attn_mask = size, masks.get(block.shift_size)

    def _blocks(self):
        return [block for layer in self.layers for block in layer.residual_group.blocks]


class LSR(nn.Module):
    """z (B, C, h, w) -> (B, C, H, W), scaled latents, float32, for any H and W.

    channels: latent channels C. dim, depths, heads, window, mlp_ratio: the Swin encoder. hidden: widths
    of the LIIF head. drop_path: stochastic depth in train() (the paper trains with 0.1). The network
    starts out of training.
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
        self.imnet = LIIF(self.features, channels, hidden, unfold=3)
        self.train(False)

    def forward(
        self,
        z: torch.Tensor,
        size: tuple[int, int],
        chunk_rows: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Upscale z to size (H, W), `chunk_rows` output rows at a time (by default those of `chunk_rows`).

        progress(done, total) is called with output rows after each chunk. h and w must be above 4
        where they are no multiple of the window, because the encoder pads by reflection.
        """
        height, width = size
        rows = chunk_rows or self.chunk_rows(z.shape[0], width, z.device)
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
        """The head's first layer without the offsets, once per low-resolution cell: (B, h, w, hidden)."""
        return self.imnet.embed(features, (2 * features.shape[-2] / size[0], 2 * features.shape[-1] / size[1]))

    def query(self, grid: torch.Tensor, size: tuple[int, int], region: Region) -> torch.Tensor:
        """The head's residual (B, C, region.height, region.width) of `embed`'s grid at target `size`."""
        rows = axis_neighbors(grid.shape[1], size[0], region.y, region.height, grid.device)
        columns = axis_neighbors(grid.shape[2], size[1], region.x, region.width, grid.device)
        return self.imnet.query(grid, rows, columns)

    def memory(self, h: int, w: int, height: int, width: int, rows: int) -> int:
        """Bytes that upscaling one (h, w) image to (height, width) takes in chunks of `rows`."""
        window, hidden = self.args["window"] ** 2, max(self.args["hidden"])
        encoder = h * w * (8 * self.args["dim"] + (3 * max(self.args["heads"]) + 1) * window)
        grid = h * w * (self.features + 2 * hidden)
        chunk = rows * width * 4 * hidden
        return 4 * (max(encoder, grid + chunk) + 3 * height * width * self.args["channels"])

    @staticmethod
    def chunk_rows(batch: int, width: int, device: torch.device) -> int:
        """Output rows of a default chunk at `width` output columns."""
        queries = min(QUERIES_PER_CHUNK, QUERIES_IN_CACHE) if device.type == "cpu" else QUERIES_PER_CHUNK
        return max(1, queries // (batch * width))
