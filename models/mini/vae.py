"""The mini world's autoencoder: factor 8, 4 channels, pixel (un)shuffle ends so that nothing runs at full resolution."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class ResBlock(nn.Module):
    def __init__(self, channels: int, operations=nn):
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class MiniVAE(nn.Module):
    """Images (B, 3, 8h, 8w) in [-1, 1] <-> unscaled latents (B, 4, h, w). Free of norms, fully convolutional.

    operations: where its convolutions come from, torch.nn or a class of comfy.ops.
    """

    def __init__(self, shallow: int = 64, deep: int = 128, latent_channels: int = 4, operations=nn):
        super().__init__()
        conv, block = operations.Conv2d, partial(ResBlock, operations=operations)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), conv(48, shallow, 3, padding=1), block(shallow), block(shallow),
            conv(shallow, deep, 4, stride=2, padding=1), block(deep), block(deep), nn.ReLU(),
            conv(deep, 2 * latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            conv(latent_channels, deep, 3, padding=1), block(deep), block(deep), block(deep),
            conv(deep, shallow * 4, 1), nn.PixelShuffle(2), block(shallow), block(shallow), block(shallow),
            conv(shallow, 32 * 4, 1), nn.PixelShuffle(2), block(32), nn.ReLU(),
            conv(32, 12, 3, padding=1), nn.PixelShuffle(2),
        )

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log-variance."""
        mean, logvar = self.encoder(x).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The posterior mode."""
        return self.moments(x)[0]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)
