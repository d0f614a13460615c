"""`train mini-arbitrary`: the generative half of arbitrary-scale upsampling (Kim & Kim, CVPR 2024) on the mini world.

The denoiser is shown the low-resolution picture beside the noise: the picture is resized (bilinear) to 256 px, encoded
by the same frozen autoencoder, scaled, and concatenated to the noisy latent at every step. It learns one latent size,
32 x 32 cells; the output size is the decoder's business. It starts from the bundled denoiser with the weights of the
four new input channels at zero, so that its first prediction is the bundled denoiser's.

`--align` is the second stage: the trained denoiser goes on with the paper's alignment loss (methods/alignment.py)
through the frozen decoder.
"""

from __future__ import annotations

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from safetensors.torch import load_file

from ...methods.alignment import signal_to_noise
from ...models.mini.world import ARBITRARY_CONFIG, FOLDER
from ..loop import Loop, export, launch, options_parser, provenance
from .low_resolution import draw, prepare
from .text import Vocabulary, build_text_model, encode_text
from .unet import attention, attention_override

FILE = "mini_arbitrary.safetensors"
STEM = "input_blocks.0.0.weight"


def build(weights: dict[str, torch.Tensor]) -> UNetModel:
    """The denoiser in float32. The bundled denoiser's weights get input channels of zeros for the low-resolution latent."""
    weights = {k: v.float() for k, v in weights.items()}
    stem = weights[STEM]
    weights[STEM] = torch.cat([stem, stem.new_zeros(len(stem), ARBITRARY_CONFIG["in_channels"] - stem.shape[1], 3, 3)], 1)
    unet = UNetModel(**ARBITRARY_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    unet.load_state_dict(weights)
    return unet


def alphas_cumprod() -> torch.Tensor:
    """Of Stable Diffusion's schedule, (1000,)."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class Denoiser:
    """The network in training, with the bundled text encoder, frozen."""

    def __init__(self, weights: dict[str, torch.Tensor], device: str):
        self.device, self.vocabulary, self.alphas = device, Vocabulary(), alphas_cumprod()
        self.unet = build(weights).to(device)
        self.text = build_text_model(self.vocabulary)
        self.text.load_state_dict({k: v.float() for k, v in load_file(FOLDER / "mini_text.safetensors").items()})
        self.text.requires_grad_(False).to(device)

    def __call__(self, latents, low, rows, sizes, g: torch.Generator):
        """One random timestep a picture: (noisy latents, noise, predicted noise, alphas_cumprod (B,))."""
        t = torch.randint(len(self.alphas), (len(latents),), generator=g)
        noise = torch.randn(latents.shape, generator=g)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        embedded = timestep_embedding(sizes.flatten().float(), 256).view(len(sizes), -1)
        noisy, low, noise, t, rows, embedded = (v.to(self.device) for v in (noisy, low, noise, t, rows, embedded))
        with torch.autocast(self.device, torch.bfloat16):
            context, pooled = encode_text(self.text, rows, self.vocabulary.end_row, attention)
            eps = self.unet(torch.cat([noisy, low], 1), t.float(), context, torch.cat([pooled, embedded], 1),
                            transformer_options={"optimized_attention_override": attention_override}).float()
        return noisy, noise, eps, alpha.flatten().to(self.device)


def finish(loop: Loop, command: str, options, **metadata: str) -> None:
    weights = {k.removeprefix("unet."): v for k, v in loop.averaged().items()}
    metadata = {"format": "loupe.mini-arbitrary", **metadata, **provenance(command, options, loop.seconds)}
    for folder in (options.out, FOLDER):
        export(folder / FILE, weights, metadata)


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    data = load_file(options.out / "arbitrary.safetensors")
    denoiser = Denoiser(load_file(FOLDER / "mini_unet.safetensors"), options.device)
    loop = Loop("mini-arbitrary", {"unet": denoiser.unet}, rank, options, lr=options.lr, weight_decay=1e-3, warmup=50, hold=0.3, ema=0.995)
    for _, g in loop:
        _, noise, eps, alpha = denoiser(*draw(data, options.batch, g), g)
        error = (eps - noise).square().flatten(1).mean(1)
        loop.update((error * signal_to_noise(alpha, 5) / signal_to_noise(alpha)).mean(), mse=error.mean().item())
    if rank == 0:
        finish(loop, "mini-arbitrary", options)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-arbitrary", __doc__, steps=2000, batch=24)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--pictures", type=int, default=2000, help="512 px pictures to learn from")
    options = parser.parse_args(argv)
    prepare(options)
    launch(train, options)
