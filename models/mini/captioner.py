"""The mini world's captioner: a detector that also knows the ground and things that the border of a crop cuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .captions import Sight, caption_of
from .detector import STRIDE, Detector, peaks, strongest
from .world import NATIVE_SIZE, WORDS

MARGIN = 0.25  # of a crop's side: how far outside of it the center of a thing may be
LEVELS = (1, 2, 4)


class Captioner(nn.Module):
    """operations: where its layers come from, torch.nn or a class of comfy.ops."""

    def __init__(self, operations=nn):
        super().__init__()
        self.detector = Detector(len(WORDS["shapes"]), len(WORDS["colors"]), operations=operations)
        self.ground = operations.Linear(self.detector.channels, len(WORDS["grounds"]))

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The detector's maps of crops (B, 3, H, W) in [-1, 1], 0 around them, and logits of the ground (B, grounds).

        inside: (B, 1, H/4, W/4), 1 where a crop is.
        """
        features = self.detector.features(x)
        pooled = (features * inside).sum((2, 3)) / inside.sum((2, 3))
        return self.detector.head(features), self.ground(pooled)


def in_margin(crop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A crop (1, 3, H, W) with gray around it and its place in it, as the captioner takes them, and the width of the margin."""
    height, width = crop.shape[-2:]
    margin = round(MARGIN * min(height, width) / STRIDE) * STRIDE
    around = (margin, margin + -width % STRIDE, margin, margin + -height % STRIDE)
    return F.pad(crop, around), F.avg_pool2d(F.pad(torch.ones_like(crop[:, :1]), around), STRIDE), margin


@torch.no_grad()
def describe(net: Captioner, image: torch.Tensor) -> str:
    """The caption of an image (1, H, W, 3) in 0..1, at any size."""
    x = image[..., :3].movedim(-1, 1).float() * 2 - 1
    shrink = min(x.shape[-2:]) / NATIVE_SIZE
    found, ground = [], 0
    for level in LEVELS:
        crop = F.interpolate(x, [max(STRIDE, round(side / shrink / level)) for side in x.shape[-2:]], mode="bicubic", antialias=True).clamp(-1, 1)
        padded, inside, margin = in_margin(crop)
        maps, logits = net(padded, inside)
        ground = ground + logits.softmax(-1)
        found += [d._replace(x=d.x - margin * level, y=d.y - margin * level) for d in peaks(net.detector, maps[0], level)]
    height, width = (side / shrink for side in x.shape[-2:])
    sights = [
        Sight(WORDS["colors"][d.color], WORDS["shapes"][d.shape], d.x / width, d.y / height, d.radius / width, d.radius / height)
        for d in strongest(found)
    ]
    return caption_of(sights, WORDS["grounds"][int(ground.argmax())])
