"""`train implicit-decoder`: an image of any size from the latents of any autoencoder that has a decoder to read.

As the arbitrary-scale latent diffusion model's first stage (Kim and Kim, CVPR 2024): squares of large images are
reduced and encoded, once, to --data; each step decodes such latents, asks for a random part of the image at a random
size between the reduced and the large square's, and compares it with the large square resized there (L1, Adam). The kind
`hybrid` trains a LIIF head on the frozen autoencoder's last features, `implicit` a whole decoder of latents. The batch
of a step shares its size and part. docs/training.md says where this differs from the paper's first stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..methods.regions import Region
from ..models.implicit_decoder import HybridDecoder, ImplicitDecoder, file
from ..models.implicit_decoder.resample import bicubic
from ..models.implicit_decoder.tap import Decoded
from . import images, vae
from .command_line import launch, options_parser
from .data import (
    add_options,
    begin,
    cut,
    finish_options,
    finished,
    halvings,
    make_loop,
    samples_due,
)
from .plots import sheet
from .shards import Shards

FOLDER = "vae_approx"
SHOWN = 4


def square_maker(frozen: vae.FrozenVAE, options: argparse.Namespace):
    """`make` of `Shards.prepare`: each square as uint8 (3, H, W) and the scaled latents of its reductions."""

    def make(name: str, pixels):
        for image in halvings(pixels, options.octaves):
            for square in cut(image, options.square):
                latents = {str(reduction): frozen.encode(images.to_unit_tensor(images.shrink_bicubic(square, reduction)))[0].half() for reduction in options.reductions}
                yield {}, {**latents, "image": torch.from_numpy(square.copy()).permute(2, 0, 1)}

    return make


class Squares:
    """Latents, and the images that they should become at every size."""

    def __init__(self, shards: Shards, square: int, reductions: list[int], query: int):
        self.shards, self.square, self.reductions, self.query = shards, square, reductions, query

    def read(self, indices: list[int], reduction: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(scaled latents (B, C, h, w) of the reduced squares, the squares (B, 3, H, W) in [-1, 1])."""
        entries = [self.shards.entries[i] for i in indices]
        latents = torch.stack([self.shards.read(entry, str(reduction)) for entry in entries]).float()
        return latents, torch.stack([self.shards.read(entry, "image") for entry in entries]).float() / 127.5 - 1

    def draw(self, count: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], Region]:
        """(latents, squares, size of the image asked for, the part of it that is compared)."""
        reduction = self.reductions[torch.randint(len(self.reductions), (), generator=g).item()]
        low = self.square // reduction
        side = int(low + (self.square - low) * torch.rand((), generator=g).item())
        query = min(self.query, side)
        region = Region(*torch.randint(side - query + 1, (2,), generator=g).tolist(), query, query)
        chosen = torch.randint(len(self.shards.entries), (count,), generator=g).tolist()
        return *self.read(chosen, reduction), (side, side), region


def network(options: argparse.Namespace, frozen: vae.FrozenVAE) -> HybridDecoder | ImplicitDecoder:
    if options.kind == "hybrid":
        try:
            return HybridDecoder.of(frozen.network, options.hidden)
        except ValueError as error:
            raise SystemExit(f"--vae {options.vae}: {error} `--kind implicit` needs no such features.") from None
    stages = frozen.pixels_per_cell.bit_length()  # a latent cell is 2 ** (stages - 1) pixels
    return ImplicitDecoder(frozen.space.channels, options.width, (1, 2, *[4] * stages)[:stages], hidden=options.hidden)


def features(net: HybridDecoder | ImplicitDecoder, frozen: vae.FrozenVAE, latents: torch.Tensor) -> Decoded:
    z = frozen.unscaled(latents)
    if isinstance(net, ImplicitDecoder):
        return net.features(z)
    with torch.no_grad():
        return net.features(frozen.network, z)


@torch.no_grad()
def write_sheet(path: Path, net: HybridDecoder | ImplicitDecoder, frozen: vae.FrozenVAE, latents: torch.Tensor, large: torch.Tensor, device: str) -> None:
    latents, size = latents.to(device), tuple(large.shape[-2:])
    drawn = net(features(net, frozen, latents), size, rows=64)
    plain = bicubic(frozen.view(latents) * 2 - 1, size, Region(0, 0, *size))
    sheet(path, {name: (pixels + 1) / 2 for name, pixels in (("VAE, bicubic", plain), ("decoder", drawn), ("large image", large))})


def train(rank: int, options: argparse.Namespace) -> None:
    device = options.device
    usable, frozen = begin(options, options.square, rank)
    if multiple := [r for r in options.reductions if options.square % (r * frozen.pixels_per_cell)]:
        raise SystemExit(f"--square {options.square}: reduced by {multiple[0]} it is no multiple of {frozen.pixels_per_cell} pixels, the size of a latent cell.")
    net = network(options, frozen).to(device).train()
    settings = {"vae": frozen.name, "latent_format": frozen.space.name, "square": options.square, "reductions": options.reductions, "octaves": options.octaves}
    shards = Shards(options.data, settings)
    shards.prepare(usable, square_maker(frozen, options), rank, options.ranks)
    if not shards.entries:
        raise SystemExit(f"{options.data} holds no squares: none of the images could be read.")
    squares = Squares(shards, options.square, options.reductions, options.query)

    loop = make_loop({"decoder": net}, rank, options)
    examples = squares.read(list(range(min(SHOWN, len(shards.entries)))), max(options.reductions))
    for step, g in loop:
        latents, large, size, region = squares.draw(options.batch, g)
        target = bicubic(large, size, region).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=options.bf16):
            out = net.query(features(net, frozen, latents.to(device)), size, region).float()
        error = out - target
        loop.update(error.abs().mean(), psnr=10 * (4 / error.detach().square().mean()).log10().item())
        if samples_due(options, rank, step):
            write_sheet(options.out / f"{options.name}.samples.png", net, frozen, *examples, device)
    if rank == 0:
        file.save(options.save, net, finished(loop, options, frozen, largest=str(max(options.reductions))))
        print(f"wrote {options.save}")


def main(argv: list[str], command: str = "implicit-decoder") -> None:
    parser = options_parser("implicit-decoder", __doc__, steps=100_000, batch=16)
    parser.set_defaults(out=Path("runs/implicit-decoder"))
    add_options(parser)
    parser.add_argument("--kind", choices=("hybrid", "implicit"), default="hybrid")
    parser.add_argument("--square", type=int, default=1024, help="sides of the squares in pixels; smaller images are skipped")
    parser.add_argument("--reductions", type=int, nargs="+", default=(2, 4), help="a square reduced by 4 teaches 1 to 4 times the VAE's own size")
    parser.add_argument("--query", type=int, default=128, help="pixels a side that are compared")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--hidden", type=int, nargs="+", default=(256, 256, 256, 256), help="widths of the LIIF head")
    parser.add_argument("--width", type=int, default=128, help="of --kind implicit: channels of its features")
    options = parser.parse_args(argv)
    options.reductions = list(options.reductions)
    finish_options(options, command, FOLDER)
    launch(train, options)
