"""Seeded Gaussian noise."""

import hashlib
from collections.abc import Sequence

import torch


def stream(seed: int, purpose: str) -> int:
    """Seed of the draws for `purpose` of a node with `seed`: other than ComfyUI's own draws, and those for other
    purposes, from the same seed. 0 to 2^53 - 1, which a widget in the browser holds too."""
    return int.from_bytes(hashlib.blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest(), "little") >> 11


def seeded_noise(shape: Sequence[int], seed: int, batch_index: Sequence[int] | None = None) -> torch.Tensor:
    """N(0, 1) of `shape` (B, ...), float32 on the CPU, from a generator of its own.

    Samples are drawn one after another; `batch_index` names the draw of each sample, so that one
    image taken out of a batch gets the noise that it had in the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    batch_index = list(batch_index or range(shape[0]))
    draws = {}
    for i in range(max(batch_index) + 1):
        noise = torch.randn(*shape[1:], generator=generator)
        if i in batch_index:
            draws[i] = noise
    return torch.stack([draws[i] for i in batch_index])
