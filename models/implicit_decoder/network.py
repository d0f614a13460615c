"""Decoders whose last step is a LIIF head: one feature map, an image of any size.

`ImplicitDecoder` is the arbitrary-scale latent diffusion model's (Kim and Kim, CVPR 2024): a convolutional
decoder that stays at the latent's size, then the head. `HybridDecoder` is a head on a frozen VAE's own
decoder, and adds to the VAE's image.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.amp.autocast_mode import is_autocast_available

from ...methods.regions import Region
from ..liif import LIIF, axis_neighbors, axis_span
from . import tap
from .resample import bicubic
from .tap import Decoded


def without_autocast(device_type: str):
    """Context of full precision. A device type without mixed precision (DirectML) has nothing to switch off and refuses to be asked."""
    mixed = is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if mixed else nullcontext()


class ResBlock(nn.Module):
    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class Attention(nn.Module):
    """Single-head attention over all cells."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h[:, 0].transpose(1, 2).reshape(x.shape))


class ConvDecoder(nn.Module):
    """CompVis' decoder without its upsampling and output layers: (B, C, h, w) -> (B, width * mult[0], h, w)."""

    def __init__(self, channels: int, width: int, mult: Sequence[int], blocks: int, attention: Sequence[int]):
        super().__init__()
        now = width * mult[-1]
        self.conv_in = nn.Conv2d(channels, now, 3, padding=1)
        self.mid = nn.ModuleDict({"block_1": ResBlock(now, now), "attn_1": Attention(now), "block_2": ResBlock(now, now)})
        levels = []
        for level in reversed(range(len(mult))):
            out = width * mult[level]
            stages = nn.ModuleList([ResBlock(now if i == 0 else out, out) for i in range(blocks + 1)])
            attn = nn.ModuleList([Attention(out) for _ in stages] if level in attention else [])
            levels.insert(0, nn.ModuleDict({"block": stages, "attn": attn}))
            now = out
        self.up = nn.ModuleList(levels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(z)
        for layer in self.mid.values():
            h = layer(h)
        for level in reversed(self.up):
            for i, block in enumerate(level["block"]):
                h = block(h)
                if level["attn"]:
                    h = level["attn"][i](h)
        return h


class LIIFDecoder(nn.Module):
    """What both decoders share: answers of `head` for a region of an image of any size."""

    head: LIIF
    ensemble = True

    def query(self, decoded: Decoded, size: tuple[int, int], region: Region) -> torch.Tensor:
        """The pixels (B, 3, region.height, region.width) inside `region` of the image of `size` (H, W),
        in about [-1, 1], not clamped; differentiable. Reads only the features near the region."""
        features = decoded.features
        h, w = features.shape[-2:]
        (top, bottom), (left, right) = axis_span(h, size[0], region.y, region.height), axis_span(w, size[1], region.x, region.width)
        first = self.head.layers[0]
        near = features[..., top:bottom, left:right].to(first.weight.device, first.weight.dtype)
        grid = self.head.embed(near, (2 * h / size[0], 2 * w / size[1]))
        rows, columns = (
            [(index - start, offset, weight) for index, offset, weight in axis_neighbors(low, high, begin, count, grid.device, self.ensemble)]
            for low, high, begin, count, start in ((h, size[0], region.y, region.height, top), (w, size[1], region.x, region.width, left))
        )
        return self.head.query(grid, rows, columns)

    def forward(self, decoded: Decoded, size: tuple[int, int], rows: int | None = None) -> torch.Tensor:
        """The whole image (B, 3, H, W), `rows` rows at a time."""
        height, width = size
        rows = rows or height
        return torch.cat([self.query(decoded, size, Region(y, 0, min(rows, height - y), width)) for y in range(0, height, rows)], -2)

    def query_memory(self, h: int, w: int, size: tuple[int, int], rows: int) -> int:
        """Bytes that `rows` rows of an image of `size` take, from features of at most (h, w), in float32."""
        widest = max(layer.out_features for layer in self.head.layers if isinstance(layer, nn.Linear))
        near = (rows * h // size[0] + 2) * w
        return 4 * (near * (self.head.channels + 2 * widest) + rows * widest * (w + 4 * size[1]))


class ImplicitDecoder(LIIFDecoder):
    """The paper's decoder of unscaled latents.

    channels: latent channels. width, mult, blocks: CompVis' ch, ch_mult and num_res_blocks. attention:
    levels with attention beside the middle's. hidden: widths of the head. cell: whether the head sees the
    size of a pixel. ensemble: whether it answers for four features or for the nearest one; the weights do
    not tell, and `load` takes the authors' files for the former.
    """

    kind = "implicit"

    def __init__(self, channels: int = 3, width: int = 128, mult: Sequence[int] = (1, 2, 4), blocks: int = 2, attention: Sequence[int] = (), hidden: Sequence[int] = (256, 256, 256, 256), cell: bool = True, ensemble: bool = True):
        super().__init__()
        self.args = {"channels": channels, "width": width, "mult": list(mult), "blocks": blocks, "attention": list(attention), "hidden": list(hidden), "cell": cell, "ensemble": ensemble}
        self.ensemble = ensemble
        self.decoder = nn.Sequential(nn.Conv2d(channels, channels, 1), ConvDecoder(channels, width, mult, blocks, attention))
        self.inr = nn.ModuleDict({"imnet": LIIF(width * mult[0], 3, hidden, cell=cell)})

    @property
    def head(self) -> LIIF:
        return self.inr["imnet"]

    @property
    def factor(self) -> int:
        """Pixels of the training images per latent cell."""
        return 2 ** (len(self.args["mult"]) - 1)

    def features(self, z: torch.Tensor) -> Decoded:
        """z (B, C, h, w), unscaled; the features have its size."""
        return Decoded(self.decoder(z), None)

    def features_memory(self, h: int, w: int) -> int:
        """Bytes that `features` of one (h, w) latent takes in float32."""
        return 4 * 8 * h * w * self.args["width"] * max(self.args["mult"])


class HybridDecoder(LIIFDecoder):
    """A head on the last features of a VAE's decoder: its answer is added to the VAE's image, resized bicubically.

    The head starts at zero, so that an untrained decoder is the VAE and a resize, and at the VAE's own
    size the VAE alone. channels: of the VAE's last features. hidden: widths of the head.
    `of(autoencoder)` makes one that fits.
    """

    kind = "hybrid"

    def __init__(self, channels: int = 128, hidden: Sequence[int] = (256, 256, 256, 256)):
        super().__init__()
        self.args = {"channels": channels, "hidden": list(hidden)}
        self.imnet = LIIF(channels, 3, hidden)
        nn.init.zeros_(self.imnet.layers[-1].weight)
        nn.init.zeros_(self.imnet.layers[-1].bias)
        self.register_buffer("vae", torch.zeros(16))

    @classmethod
    def of(cls, autoencoder: nn.Module, hidden: Sequence[int] = (256, 256, 256, 256)) -> "HybridDecoder":
        """An untrained decoder for ComfyUI's `first_stage_model` of a VAE, or the mini world's."""
        network = cls(tap.last_layer(autoencoder).in_channels, hidden)
        network.vae.copy_(tap.signature(autoencoder))
        return network

    @property
    def head(self) -> LIIF:
        return self.imnet

    def fits(self, autoencoder: nn.Module) -> bool:
        """Whether this is the VAE that the head was made for, in any precision."""
        vae = self.vae.float().cpu()
        return tap.last_layer(autoencoder).in_channels == self.args["channels"] and bool(torch.dist(vae, tap.signature(autoencoder)) <= 0.02 * vae.norm())

    def features(self, autoencoder: nn.Module, z: torch.Tensor) -> Decoded:
        """z (B, C, h, w), unscaled, decoded by `autoencoder` up to its last features and to its image."""
        return tap.decode(autoencoder, z)

    def query(self, decoded: Decoded, size: tuple[int, int], region: Region) -> torch.Tensor:
        residual = super().query(decoded, size, region)
        image = decoded.image.to(residual.device, torch.float32)
        with without_autocast(image.device.type):  # mixed precision is for the head, not for the image
            return bicubic(image, size, region) + residual
