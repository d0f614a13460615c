"""`train mini-arbitrary`: the generative half of arbitrary-scale upsampling (Kim & Kim, CVPR 2024) on the mini world.

The denoiser is shown the low-resolution image beside the noise: the image is resized (bilinear) to 256 px, encoded
by the same frozen autoencoder, scaled, and concatenated to the noisy latent at every step. It learns one latent size,
32 x 32 cells; the output size is the decoder's business. It starts from the bundled denoiser with the weights of the
four new input channels at zero, so that its first prediction is the bundled denoiser's.

`--align` is the second stage: the trained denoiser goes on with the alignment loss (methods/alignment.py) through the
frozen implicit decoder. The paper's code decodes at the latent's own size for want of memory; here a square of queries
is decoded at a scale between 1 and 2, the most that 512 px images can judge, and the signal-to-noise weight is limited.
"""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from safetensors.torch import load_file

from ...methods.alignment import alignment_loss, predicted_latent, signal_to_noise
from ...methods.regions import Region
from ...methods.schedules import alphas_cumprod, diffused
from ...models import files, implicit_decoder
from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.world import ARBITRARY_CONFIG
from ..command_line import launch, options_parser, provenance
from ..loop import Loop
from .denoiser import attention, attention_override, load_vae
from .low_resolution import SIDE, draw, draw_whole, prepare, target
from .shards import Images
from .text import Vocabulary, encode_text, load_text_model

FILE = "mini_arbitrary.safetensors"  # in --out, for the second stage
STEM = "input_blocks.0.0.weight"
SIDES = range(SIDE, 2 * SIDE + 1, 32)  # of the images that alignment decodes: a latent cell is a whole number of pixels
WINDOW, BORDER = 16, 4  # cells decoded, and those at each side that queries keep away from
QUERIES = 32  # side of the square of queries


def build(weights: dict[str, torch.Tensor]) -> UNetModel:
    """The denoiser in float32. The bundled denoiser's weights get input channels of zeros for the low-resolution latent."""
    weights = {k: v.float() for k, v in weights.items()}
    stem = weights[STEM]
    weights[STEM] = torch.cat([stem, stem.new_zeros(len(stem), ARBITRARY_CONFIG["in_channels"] - stem.shape[1], 3, 3)], 1)
    unet = UNetModel(**ARBITRARY_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    unet.load_state_dict(weights)
    return unet


class Denoiser:
    """The network in training, with the bundled text encoder, frozen."""

    def __init__(self, weights: dict[str, torch.Tensor], device: str):
        self.device, self.vocabulary, self.alphas = device, Vocabulary(), alphas_cumprod()
        self.unet = build(weights).to(device)
        self.text = load_text_model(self.vocabulary).to(device)

    def __call__(self, latents, low, rows, sizes, g: torch.Generator):
        """One random timestep an image: (noisy latents, noise, predicted noise, alphas_cumprod (B,))."""
        t = torch.randint(len(self.alphas), (len(latents),), generator=g)
        noise = torch.randn(latents.shape, generator=g)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = diffused(latents, noise, alpha)
        embedded = timestep_embedding(sizes.flatten().float(), 256).view(len(sizes), -1)
        noisy, low, noise, t, rows, embedded = (v.to(self.device) for v in (noisy, low, noise, t, rows, embedded))
        with torch.autocast(self.device, torch.bfloat16):
            context, pooled = encode_text(self.text, rows, self.vocabulary.end_row, attention)
            eps = self.unet(torch.cat([noisy, low], 1), t.float(), context, torch.cat([pooled, embedded], 1),
                            transformer_options={"optimized_attention_override": attention_override}).float()
        return noisy, noise, eps, alpha.flatten().to(self.device)


class Decoder:
    """The frozen autoencoder with its implicit decoder: parts of images of any size, differentiable."""

    def __init__(self, device: str):
        self.vae, self.scale = load_vae()
        path = files.BUNDLED / "mini_decoder.safetensors"
        self.network = implicit_decoder.load(path)[0] if path.exists() else implicit_decoder.HybridDecoder.of(self.vae)
        for module in (self.vae, self.network):
            module.requires_grad_(False).to(device)

    def __call__(self, latents: torch.Tensor, cells: Region, side: int, region: Region) -> torch.Tensor:
        """`region` (pixels of the image of `side` x `side`) decoded from scaled latents (B, 4, h, h) cut to `cells`."""
        pixels_per_cell = side // latents.shape[-1]
        with torch.autocast(latents.device.type, torch.bfloat16):
            decoded = self.network.features(self.vae, cells.crop(latents) / self.scale)
            inner = Region(region.y - cells.y * pixels_per_cell, region.x - cells.x * pixels_per_cell, region.height, region.width)
            return self.network.query(decoded, (cells.height * pixels_per_cell, cells.width * pixels_per_cell), inner).float()


def finish(loop: Loop, command: str, options, *paths: Path | None, **notes: str) -> None:
    """Write the averaged weights to `paths`; None is the bundled file."""
    weights = {k.removeprefix("unet."): v for k, v in loop.averaged().items()}
    metadata = Metadata(file.metadata_of("vae").latents, notes={**notes, **provenance(command, options, loop.seconds)})
    for path in paths:
        file.save("arbitrary", weights, metadata, path)


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    data = load_file(options.out / "arbitrary.safetensors")
    denoiser = Denoiser(file.load("arbitrary", options.start)[0] if options.start else file.load("unet")[0], options.device)
    loop = Loop("mini-arbitrary", {"unet": denoiser.unet}, rank, options, lr=options.lr, weight_decay=1e-3, warmup=50, hold=0.3, ema=0.995)
    for _, g in loop:
        _, noise, eps, alpha = denoiser(*draw(data, options.batch, g), g)
        error, snr = (eps - noise).square().flatten(1).mean(1), signal_to_noise(alpha)
        # the noisiest steps settle the colors of the image, where a small error of eps is a large one of the latent
        weight = snr.clamp(max=5) / snr * (1 / snr).clamp(1, 10)
        loop.update((error * weight).mean(), mse=error.mean().item())
    if rank == 0:
        finish(loop, "mini-arbitrary --start" if options.start else "mini-arbitrary", options, options.out / FILE, options.save)


def train_aligned(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    data = load_file(options.out / "arbitrary.safetensors")
    images = Images(options.out / "scenes", "large")
    denoiser, decoder = Denoiser(file.load("arbitrary", options.out / FILE)[0], options.device), Decoder(options.device)
    loop = Loop("mini-arbitrary-align", {"unet": denoiser.unet}, rank, options, lr=options.lr, weight_decay=0, warmup=20, ema=0.98)
    for _, g in loop:
        i, latents, *told = draw_whole(data, options.batch, g)
        noisy, _, eps, alpha = denoiser(latents, *told, g)
        predicted = predicted_latent(noisy, eps, alpha)
        cells, side, region = draw_queries(latents.shape[-1], g)
        truth = torch.cat([region.crop(target(images, index, side)) for index in i.tolist()]).to(predicted)
        loss = alignment_loss(latents.to(predicted), predicted, truth, decoder(predicted, cells, side, region), alpha,
                              limit=options.snr_limit, image_weight=options.image_weight)
        loop.update(loss.total, latent=loss.latent.mean().item(), image=loss.image.mean().item())
    if rank == 0:
        finish(loop, "mini-arbitrary --align", options, options.save, snr_limit=str(options.snr_limit), image_weight=str(options.image_weight))


def draw_queries(count: int, g: torch.Generator) -> tuple[Region, int, Region]:
    """A window of cells on a grid of `count`, the side of the image to decode, and a square of its pixels inside the window."""
    y, x = torch.randint(count - WINDOW + 1, (2,), generator=g).tolist()
    side = SIDES[torch.randint(len(SIDES), (), generator=g).item()]
    pixels_per_cell = side // count
    span = (WINDOW - 2 * BORDER) * pixels_per_cell - QUERIES
    dy, dx = torch.randint(span + 1, (2,), generator=g).tolist()
    return Region(y, x, WINDOW, WINDOW), side, Region((y + BORDER) * pixels_per_cell + dy, (x + BORDER) * pixels_per_cell + dx, QUERIES, QUERIES)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-arbitrary", __doc__, steps=2000, batch=24)
    parser.add_argument("--start", type=Path, nargs="?", const=file.path_of("arbitrary"), help="go on from these weights instead of the denoiser's, without a file from the bundled ones")
    parser.add_argument("--align", action="store_true", help="second stage, from the weights that the first left in --out")
    parser.add_argument("--lr", type=float, help="default 5e-4, with --align 5e-5")
    parser.add_argument("--count", type=int, default=2000, help="512 px images to learn from")
    parser.add_argument("--snr-limit", type=float, default=5.0, help="with --align: largest signal-to-noise weight (paper: none)")
    parser.add_argument("--image-weight", type=float, default=1.0, help="with --align: weight of the decoded image's error; 0 trains on without it")
    options = parser.parse_args(argv)
    options.lr = options.lr or (5e-5 if options.align else 5e-4)
    if options.align and not (options.out / FILE).exists():
        raise FileNotFoundError(f"{options.out / FILE} is missing: run `python dev.py train mini-arbitrary` to its end before --align.")
    prepare(options)
    launch(train_aligned if options.align else train, options)
