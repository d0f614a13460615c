"""The LSR as its papers compute it: the measure of a faster one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from spandrel.architectures.SwinIR import SwinIR

from ..models.lsr import LSR


class PublishedLSR(torch.nn.Module):
    """`network` evaluated as SwinIR and LIIF are written: features unfolded, each of four neighbors looked up by
    grid_sample and sent through all layers of the head, 30,000 queries at a time. z (B, C, h, w) -> (B, C, H, W)."""

    QUERIES = 30000

    def __init__(self, network: LSR):
        super().__init__()
        args = network.args
        self.encoder = SwinIR(
            img_size=4 * args["window"],
            in_chans=args["channels"],
            embed_dim=args["dim"],
            depths=args["depths"],
            num_heads=args["heads"],
            window_size=args["window"],
            mlp_ratio=args["mlp_ratio"],
            drop_path_rate=0,
            upsampler="pixelshuffle",
            upscale=1,
        )
        self.encoder.load_state_dict({key: value for key, value in network.encoder.state_dict().items() if not key.endswith("attn_mask")}, strict=False)
        self.head = network.imnet.layers
        self.eval()

    def features(self, z):
        encoder, (h, w) = self.encoder, z.shape[-2:]
        x = encoder.conv_first(encoder.check_image_size(z))
        x = encoder.conv_after_body(encoder.forward_features(x)) + x
        return F.unfold(encoder.conv_before_upsample(x)[..., :h, :w], 3, padding=1).unflatten(2, (h, w))

    def forward(self, z: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        features, points = self.features(z), grid(*size)
        cell = torch.tensor([2 * z.shape[-2] / size[0], 2 * z.shape[-1] / size[1]])
        residual = torch.cat([self.query(features, part[None], cell) for part in points.split(self.QUERIES)], 1)
        return F.interpolate(z, size, mode="bicubic") + residual.mT.unflatten(2, size)

    def query(self, features, points, cell):
        sides = torch.tensor(features.shape[-2:])
        centers = grid(*features.shape[-2:]).unflatten(0, features.shape[-2:]).movedim(-1, 0)[None]
        answers, areas = [], []
        for down in (-1, 1):
            for right in (-1, 1):
                moved = (points + torch.tensor([down, right]) / sides + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
                nearest = moved.flip(-1)[:, None]
                seen, center = (F.grid_sample(map, nearest, mode="nearest", align_corners=False)[:, :, 0].mT for map in (features, centers))
                offset = (points - center) * sides
                answers.append(self.head(torch.cat([seen, offset, cell.expand_as(offset)], -1)))
                areas.append(offset.prod(-1).abs() + 1e-9)
        # each answer weighs as much as the area on the far side of its point
        return sum(answer * (area / sum(areas))[..., None] for answer, area in zip(answers, reversed(areas)))


def grid(height: int, width: int) -> torch.Tensor:
    """Centers of cells (y, x), row by row, in -1..1: (height * width, 2)."""
    rows, columns = ((2 * torch.arange(side) + 1) / side - 1 for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
