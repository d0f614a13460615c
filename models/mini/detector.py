"""The mini world's object detector: shape, color, center and radius of every thing."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 4
RADIUS_UNIT = 24.0


class Detection(NamedTuple):
    """Class indices, center and radius in pixels of the image."""

    score: float
    shape: int
    color: int
    x: float
    y: float
    radius: float


class ResBlock(nn.Module):
    def __init__(self, channels: int, dilation: int = 1, operations=nn):
        super().__init__()
        self.norm1, self.norm2 = operations.GroupNorm(8, channels), operations.GroupNorm(8, channels)
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Detector(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to maps (B, shapes + colors + 1, H/4, W/4): center logits, color logits, log radius.

    operations: where its layers come from, torch.nn or a class of comfy.ops.
    """

    def __init__(self, shapes: int = 8, colors: int = 8, channels: int = 48, operations=nn):
        super().__init__()
        self.shapes, self.colors, self.channels = shapes, colors, channels
        conv, norm = operations.Conv2d, operations.GroupNorm
        self.stem = nn.Sequential(conv(3, 24, 5, stride=2, padding=2), nn.SiLU(), conv(24, channels, 3, stride=2, padding=1))
        self.trunk = nn.Sequential(*(ResBlock(channels, d, operations) for d in (1, 2, 4, 2, 1)))
        self.head = nn.Sequential(norm(8, channels), nn.SiLU(), conv(channels, shapes + colors + 1, 1))
        nn.init.zeros_(self.head[2].weight)
        nn.init.constant_(self.head[2].bias, -3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Trunk features (B, channels, H/4, W/4), for Fréchet distances."""
        return self.trunk(self.stem(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def detect(net: Detector, image: np.ndarray, levels: tuple[int, ...] = (1,), threshold: float = 0.35) -> list[Detection]:
    """Things in a uint8 RGB image, best first. `levels` are shrink factors: (1, 2, 4) finds things of all sizes at 512 px."""
    found = []
    for level in levels:
        small = image if level == 1 else cv2.resize(image, None, fx=1 / level, fy=1 / level, interpolation=cv2.INTER_AREA)
        x = torch.from_numpy(np.ascontiguousarray(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
        found += peaks(net, net(x)[0], level, threshold)
    return strongest(found)


def peaks(net: Detector, maps: torch.Tensor, level: float = 1, threshold: float = 0.35) -> list[Detection]:
    """Things where the center maps of an image that was shrunk by `level` are highest."""
    found = []
    center = maps[:net.shapes].sigmoid()
    tops = (center == F.max_pool2d(center[None], 5, 1, 2)[0]) & (center > threshold)
    for shape, row, column in tops.nonzero().tolist():
        color = int(maps[net.shapes:net.shapes + net.colors, row, column].argmax())
        radius = RADIUS_UNIT * math.exp(float(maps[-1, row, column])) * level
        found.append(Detection(float(center[shape, row, column]), shape, color, (column + 0.5) * STRIDE * level, (row + 0.5) * STRIDE * level, radius))
    return found


def strongest(found: list[Detection]) -> list[Detection]:
    """Best first, one of those that lie on each other."""
    kept: list[Detection] = []
    for d in sorted(found, reverse=True):
        if all(math.hypot(d.x - e.x, d.y - e.y) > 0.8 * max(d.radius, e.radius) for e in kept):
            kept.append(d)
    return kept
