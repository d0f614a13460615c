"""`train mini-vae`: the mini world's autoencoder, on whole scenes and on crops of larger renders."""

from __future__ import annotations

import json
import math

import numpy as np
import torch
import torch.nn.functional as F

from ...models.files import Metadata
from ...models.latent_space import LatentSpace
from ...models.mini import file
from ...models.mini.vae import MiniVAE
from ..command_line import launch, options_parser, provenance
from ..images import shrink, to_tensor
from ..loop import Loop
from .shards import Images

SIZE = 128


def training_crop(rng: np.random.RandomState, base: Images, large: Images) -> np.ndarray:
    """Half whole scenes, a quarter crops at 256 px, a quarter crops at 512 px, half of all mirrored."""
    kind = rng.rand()
    if kind < 0.5:
        image = base[rng.randint(len(base))]
    else:
        image = large[rng.randint(len(large))]
        side = 2 * SIZE if kind < 0.77 else SIZE
        y, x = rng.randint(0, image.shape[0] - side + 1, 2)
        image = shrink(image[y:y + side, x:x + side], SIZE)
    return image[:, ::-1] if rng.rand() < 0.5 else image


def detail(x: torch.Tensor) -> torch.Tensor:
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)


def local_energy(x: torch.Tensor) -> torch.Tensor:
    return (F.avg_pool2d(x * x, 8, 4) + 1e-4).sqrt()


@torch.no_grad()
def latent_statistics(vae: MiniVAE, base: Images) -> tuple[float, str]:
    """The latents' scale factor (one over their deviation), and the least-squares map of scaled latents to RGB for previews, JSON."""
    images = torch.cat([to_tensor(np.stack([base[i] for i in range(j, j + 50)])) for j in range(0, 2000, 50)])
    device = next(vae.parameters()).device
    latents = torch.cat([vae.encode(x.to(device)).cpu() for x in images.split(50)])
    scale = 1 / latents.std().item()
    samples = (latents * scale).movedim(1, -1).reshape(-1, latents.shape[1])
    colors = F.avg_pool2d(images, 8).movedim(1, -1).reshape(-1, 3)
    factors = torch.linalg.lstsq(torch.cat([samples, torch.ones(len(samples), 1)], 1), colors).solution
    return round(scale, 6), json.dumps([[round(v, 4) for v in row] for row in factors.tolist()])


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    base, large = Images(options.out / "scenes", "base"), Images(options.out / "scenes", "large")
    vae = MiniVAE().to(options.device, memory_format=torch.channels_last)
    loop = Loop("mini-vae", {"vae": vae}, rank, options, lr=1.5e-3, ema=0.999)
    for step, generator in loop:
        rng = np.random.RandomState(torch.randint(1 << 31, (), generator=generator).item())
        x = to_tensor(np.stack([training_crop(rng, base, large) for _ in range(options.batch)])).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            mean, logvar = (v.float() for v in vae.moments(x))
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).float()
        error = y - x
        mse = error.square().mean()
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        energy = (local_energy(detail(y)) - local_energy(detail(x))).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = error.abs().mean() + 2 * mse + 0.3 * gradient + 0.2 * energy + 2e-4 * kl
        loop.update(loss, psnr=10 * math.log10(4 / mse.item()), kl=kl.item(), gradient=gradient.item())
    if rank == 0:
        loop.load_average()
        scale, factors = latent_statistics(vae, base)
        notes = {"latent_rgb_factors": factors, **provenance("mini-vae", options, loop.seconds)}
        file.save("vae", vae.state_dict(), Metadata(LatentSpace("custom", 4, scale), notes=notes), options.save)


def main(argv: list[str]) -> None:
    launch(train, options_parser("mini-vae", __doc__, steps=6000, batch=12).parse_args(argv))
