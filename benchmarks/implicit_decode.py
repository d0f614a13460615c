"""`bench implicit-decode`: memory and time of VAE Decode (Any Size) as the image grows and the chunk does not.

A 64 x 64 latent of the mini world becomes images of every size, each in a process of its own. The figure is the most
memory (MiB, resident) that the process held above what it held before, less the image itself.
"""

from __future__ import annotations

import argparse

import torch

from ..models.implicit_decoder import HybridDecoder
from ..models.implicit_decoder import loaded as implicit_decoder
from ..models.implicit_decoder.loaded import AnyScale, LoadedDecoder
from . import peak_memory
from .world import World


def measure(any_scale: AnyScale, z: torch.Tensor, side: int, queries: int) -> tuple[float, float]:
    """(MiB beside the image, seconds) of one image."""
    implicit_decoder.QUERIES_PER_CHUNK = queries
    grown, seconds = peak_memory.peak(lambda: any_scale.decode(z, side, side, 128, 32))
    return grown - side * side * 12 / 2**20, seconds


@torch.inference_mode()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench implicit-decode", description=__doc__)
    parser.add_argument("--latent", type=int, default=64, help="cells a side")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="pixels a side")
    parser.add_argument("--queries", type=int, nargs="+", default=[16384, 65536], help="pixels in a chunk; the node takes 65536 where memory allows")
    parser.add_argument("--hidden", type=int, nargs="*", default=[16, 16], help="widths of the head; the paper's is 256 256 256 256, and over a hundred times slower")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    vae = World().vae
    any_scale = AnyScale(vae, LoadedDecoder(HybridDecoder.of(vae.first_stage_model, options.hidden), "bench"))
    z = torch.randn(1, 4, options.latent, options.latent, generator=torch.Generator().manual_seed(0))
    any_scale.decode(z[..., :8, :8], 64, 64, 128, 32)
    print(f"{'image':>12} {'its MiB':>8} {'queries':>8} {'MiB beside':>11} {'seconds':>8}")
    for queries in options.queries:
        for side in options.sizes:
            beside, seconds = measure(any_scale, z, side, queries)
            print(f"{side:>6}x{side:<5} {side * side * 12 / 2**20:>8.0f} {queries:>8} {beside:>11.0f} {seconds:>8.1f}", flush=True)
