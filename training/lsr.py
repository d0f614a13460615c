"""`train lsr`: latent super-resolution for any autoencoder, after LSRNA's recipe (Jeong et al., CVPR 2025).

Squares of the images and their antialiased bicubic reductions are encoded separately, once, to --data. Each step
upscales random crops of the low-resolution latents and compares a random square of the result with the encoded
large image (L1, Adam, cosine decay). The defaults are the paper's but for what docs/training.md lists:
latents are kept in float16, the batch of a step shares its scale and the square's place, CUDA runs in bfloat16. Beside
its loss, --pixel-weight compares the decoded squares, which a short training gains from.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..methods.regions import Region
from ..models.latent_space import LatentSpace
from ..models.lsr import LSR, file
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
from .shards import Entry, Shards

FOLDER = "latent_upscale_models"
SHOWN = 4


def square_side(low: int, high: int, multiple: int, rng: random.Random) -> int:
    """A side from [low, high], rounded down to `multiple` where that stays in the range."""
    side = rng.randint(low, high)
    return rounded if (rounded := side // multiple * multiple) >= low else side


def pair_maker(frozen: vae.FrozenVAE, options: argparse.Namespace):
    """`make` of `Shards.prepare`: for each square {"pairs": [(scale, high side)]} and float16 latents by pixel side."""
    multiple = frozen.pixels_per_cell * int(np.lcm.reduce(options.scales))

    def make(name: str, pixels: np.ndarray):
        rng = random.Random(f"{options.seed} {name}")
        for octave, image in enumerate(halvings(pixels, options.octaves)):
            low, high = (side >> octave for side in options.square)
            for square in cut(image, square_side(low, high, multiple, rng)):
                yield encode(square)

    def encode(square: np.ndarray):
        latents, pairs = {}, []
        for scale in options.scales:
            high = len(square) // (frozen.pixels_per_cell * scale) * frozen.pixels_per_cell * scale
            if high < options.crop * frozen.pixels_per_cell * scale:
                continue
            margin = (len(square) - high) // 2
            large = square[margin:margin + high, margin:margin + high]
            for image in (large, images.shrink_bicubic(large, scale)):
                if str(len(image)) not in latents:
                    latents[str(len(image))] = frozen.encode(images.to_unit_tensor(image))[0].half()
            pairs.append((scale, high))
        return {"pairs": pairs}, latents

    return make


class Pairs:
    """Random crops of the encoded pairs."""

    def __init__(self, shards: Shards, crop: int, query: int, pixels_per_cell: int):
        self.shards, self.crop, self.query, self.pixels_per_cell = shards, crop, query, pixels_per_cell
        self.by_scale: dict[int, list[tuple[Entry, int]]] = {}
        for entry in shards.entries:
            for scale, high in entry.facts["pairs"]:
                self.by_scale.setdefault(scale, []).append((entry, high))
        if not self.by_scale:
            raise SystemExit(f"{shards.folder} holds no pair of latents with {crop} cells on the low side. Use larger squares, or a smaller --crop.")

    def window(self, entry: Entry, side: int, y: int, x: int, cells: int) -> torch.Tensor:
        return self.shards.read(entry, str(side), (slice(None), slice(y, y + cells), slice(x, x + cells))).float()

    def draw(self, count: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], Region]:
        """(low latents (B, C, crop, crop), high squares (B, C, query, query), size of the upscaled crop, the squares' region in it)."""
        scales = sorted(self.by_scale)
        scale = scales[torch.randint(len(scales), (), generator=g).item()]
        size = self.crop * scale
        query = min(self.query, size)
        region = Region(*torch.randint(size - query + 1, (2,), generator=g).tolist(), query, query)
        low, high = [], []
        for i in torch.randint(len(self.by_scale[scale]), (count,), generator=g).tolist():
            entry, side = self.by_scale[scale][i]
            y, x = torch.randint(side // (self.pixels_per_cell * scale) - self.crop + 1, (2,), generator=g).tolist()
            low.append(self.window(entry, side // scale, y, x, self.crop))
            high.append(self.window(entry, side, y * scale + region.y, x * scale + region.x, query))
        return torch.stack(low), torch.stack(high), (size, size), region

    def examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first crops of the largest scale, low and whole high."""
        scale = max(self.by_scale)
        chosen = self.by_scale[scale][:SHOWN]
        low = [self.window(entry, side // scale, 0, 0, self.crop) for entry, side in chosen]
        high = [self.window(entry, side, 0, 0, self.crop * scale) for entry, side in chosen]
        return torch.stack(low), torch.stack(high)


@torch.no_grad()
def write_sheet(path: Path, net: LSR, frozen: vae.FrozenVAE, low: torch.Tensor, high: torch.Tensor, device: str) -> None:
    training, size = net.training, high.shape[-2:]
    upscaled = net.train(False)(low.to(device), size)
    net.train(training)
    columns = {"low": low.to(device), "bicubic latent": F.interpolate(low, size, mode="bicubic").to(device), "LSR": upscaled, "large, encoded": high.to(device)}
    sheet(path, {name: frozen.view(latents) for name, latents in columns.items()})


def network(options: argparse.Namespace, space: LatentSpace) -> LSR:
    if options.init is None:
        return LSR(space.channels, options.dim, options.depths, options.heads, hidden=options.hidden, drop_path=options.drop_path)
    start, _ = file.load(options.init)
    if start.args["channels"] != space.channels:
        raise SystemExit(f"--init {options.init} is for {start.args['channels']} latent channels; these have {space.channels}.")
    net = LSR(**start.args, drop_path=options.drop_path)
    net.load_state_dict(start.state_dict())
    return net


def train(rank: int, options: argparse.Namespace) -> None:
    device = options.device
    kind = torch.device(device).type
    usable, frozen = begin(options, options.square[1], rank)
    settings = {"vae": frozen.name, "latent_format": frozen.space.name, "square": options.square, "scales": options.scales,
                "octaves": options.octaves, "crop": options.crop, "seed": options.seed}
    shards = Shards(options.data, settings)
    shards.prepare(usable, pair_maker(frozen, options), rank, options.ranks)
    pairs = Pairs(shards, options.crop, options.query, frozen.pixels_per_cell)

    net = network(options, frozen.space).to(device).train()
    loop = make_loop({"lsr": net}, rank, options)
    examples = pairs.examples()
    for step, g in loop:
        torch.manual_seed(g.initial_seed())  # stochastic depth
        low, high, size, region = pairs.draw(options.batch, g)
        low, high = low.to(device), high.to(device)
        with torch.autocast(kind, torch.bfloat16, enabled=options.bf16):
            out = net.window(low, size, region).float()
            loss = latent = (out - high).abs().mean()
            figures = {"latent": latent.item()}
            if options.pixel_weight > 0:
                # a corner of the square: both decodings lack the same surroundings
                part = (..., slice(None, options.pixel_cells), slice(None, options.pixel_cells))
                with torch.no_grad():
                    target = frozen.decode(high[part])
                pixels = (frozen.decode(out[part]) - target).abs().mean()
                loss = loss + options.pixel_weight * pixels
                figures["pixels"] = pixels.item()
        loop.update(loss, **figures)
        if samples_due(options, rank, step):
            write_sheet(options.out / f"{options.name}.samples.png", net, frozen, *examples, device)
    if rank == 0:
        file.save(options.save, net, finished(loop, options, frozen, pixel_weight=str(options.pixel_weight)))
        print(f"wrote {options.save}")


def main(argv: list[str], command: str = "lsr") -> None:
    parser = options_parser("lsr", __doc__, steps=200_000, batch=32)
    parser.set_defaults(out=Path("runs/lsr"))
    add_options(parser)
    parser.add_argument("--square", type=int, nargs=2, default=(1056, 1440), metavar=("LOW", "HIGH"), help="range of the squares' sides in pixels; smaller images are skipped")
    parser.add_argument("--scales", type=int, nargs="+", default=(2, 3, 4), help="reductions to learn from")
    parser.add_argument("--crop", type=int, default=32, help="low-resolution cells a side")
    parser.add_argument("--query", type=int, default=64, help="upscaled cells a side that are compared")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--drop-path", type=float, default=0.1, help="stochastic depth")
    parser.add_argument("--pixel-weight", type=float, default=0.0, help="weight of the L1 between decoded squares")
    parser.add_argument("--pixel-cells", type=int, default=16, help="cells a side that are decoded for it")
    parser.add_argument("--init", type=Path, help="begin from this LSR file, in its architecture")
    parser.add_argument("--dim", type=int, default=60)
    parser.add_argument("--depths", type=int, nargs="+", default=(6, 6, 6, 6))
    parser.add_argument("--heads", type=int, nargs="+", default=(6, 6, 6, 6))
    parser.add_argument("--hidden", type=int, nargs="+", default=(256, 256, 256, 256), help="widths of the LIIF head")
    options = parser.parse_args(argv)
    if options.crop <= 4:
        parser.error("--crop: the network needs more than 4 cells")
    if options.square[0] > options.square[1]:
        parser.error("--square: the first number is the smaller one")
    options.square, options.scales = list(options.square), list(options.scales)
    finish_options(options, command, FOLDER)
    launch(train, options)
