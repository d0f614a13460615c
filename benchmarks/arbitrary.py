"""`bench arbitrary`: arbitrary-scale upsampling on held-out scenes of the mini world, one latent decoded to several sizes.

A low-resolution image of a scene (`--low` px) leads the denoiser to one 32 x 32 latent, which the frozen autoencoder
decodes at 256 px and the implicit decoder at any size. Beside it: the low-resolution image enlarged (bicubic), the
same through the autoencoder, and the autoencoder on the true image, which no denoiser can beat; and, for the implicit
decoder, the autoencoder's 256 px image enlarged (Lanczos). PSNR to the true render (dB), gradient error (share of the
true gradients' mean), adherence to the caption, Fréchet distance of detector features to true renders of the same
scenes, and SelfSSIM: similarity of one latent's images at two sizes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import comfy.sample
import comfy.utils
import numpy as np
import torch
import torch.nn.functional as F
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from safetensors.torch import load_file

from ..models.mini import loaded as mini
from ..training.images import shrink, to_tensor
from ..training.mini.low_resolution import SIDE, low_resolution
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED, caption
from .scoring import (
    frechet_distance,
    gradient_error,
    psnr,
    score_images,
    self_ssim,
    signed_to_arrays,
    ssim,
)
from .world import World, held_out_scenes, to_image, write_sheet

CONSISTENT_SIDES = (256, 474, 1024)  # 2x, 3.7x and 8x of 128 px


class Bench:
    def __init__(self, options):
        self.options = options
        self.scenes = held_out_scenes(options.scenes, options.seed)
        large = [render(scene, 2 * SIDE, 1) for scene in self.scenes]
        self.truth = {2 * SIDE: large, SIDE: [shrink(image, SIDE) for image in large]}
        self.low = {low: [low_resolution(image, low) for image in self.truth[SIDE]] for low in options.low}
        self.world = World(mini.VARIANTS["arbitrary scale"])
        self.vae, self.decoder = self.world.vae, self.world.any_scale()

    def use(self, weights: Path | None) -> None:
        if weights:
            self.world.model.model.diffusion_model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})

    def draw(self, low: int, denoise: float) -> torch.Tensor:
        """Unscaled latents (B, 4, 32, 32), drawn as a workflow draws them: from noise alone with denoise 1, else from the
        low-resolution image's latent with noise on it."""
        found = []
        for i, (scene, image) in enumerate(zip(self.scenes, self.low[low])):
            prompts = self.world.prompt(caption(scene)), self.world.empty
            positive, negative, empty = InstructPixToPixConditioning.execute(*prompts, to_image([image]), self.vae).result
            start = empty["samples"] if denoise == 1 else positive[0][1]["concat_latent_image"]
            noise = comfy.sample.prepare_noise(start, i)
            found.append(comfy.sample.sample(self.world.model, noise, self.options.steps, self.options.cfg, self.options.sampler, "normal", positive, negative, start,
                                             denoise=denoise, disable_pbar=True, seed=i))
        return torch.cat(found)

    def decode(self, latents: torch.Tensor, side: int) -> torch.Tensor:
        """(B, 3, side, side) in [-1, 1]; at the autoencoder's own size its own image, at others the implicit decoder's."""
        images = self.vae.decode(latents) if side == SIDE else self.decoder.decode(latents, side, side, 128, 32)
        return images.movedim(-1, 1) * 2 - 1

    def resize(self, latents: torch.Tensor, side: int) -> torch.Tensor:
        """The autoencoder's own image, enlarged."""
        images = self.vae.decode(latents).movedim(-1, 1)
        return comfy.utils.common_upscale(images, side, side, "lanczos", "disabled") * 2 - 1

    def quality(self, images: torch.Tensor, side: int) -> dict[str, float]:
        true = to_tensor(np.stack(self.truth[side]))
        images = images.clamp(-1, 1)
        scores = score_images(self.world.detector, signed_to_arrays(images), self.scenes)
        return {"psnr": psnr(images, true), "gradient_error": gradient_error(images, true), "ssim": ssim(images, true).mean().item(),
                "frechet": frechet_distance(self.world.detector, signed_to_arrays(images), self.truth[side]), "colour": scores["colour"], "extra": scores["extra"]}

    def table(self, name: str, latents: torch.Tensor) -> dict[str, dict[str, float]]:
        rows = {f"{name}, {side} px": self.quality(self.decode(latents, side), side) for side in self.truth}
        return {**rows, f"{name}, {2 * SIDE} px, Lanczos": self.quality(self.resize(latents, 2 * SIDE), 2 * SIDE)}


@torch.inference_mode()
def measure(options) -> dict[str, dict[str, float]]:
    bench = Bench(options)
    results = bench.table("autoencoder on the true picture", bench.world.encode(bench.truth[SIDE])) if options.baselines else {}
    for low, images in bench.low.items() if options.baselines else ():
        shrunk = to_tensor(np.stack([shrink(image, low) for image in bench.truth[SIDE]]))
        for side in bench.truth:
            results[f"{low} px, bicubic, {side} px"] = bench.quality(F.interpolate(shrunk, (side, side), mode="bicubic"), side)
        results |= bench.table(f"{low} px, through the autoencoder", bench.world.encode(images))
    for weights in (None, *options.weights):
        bench.use(weights)
        for low, denoise in itertools.product(bench.low, options.denoise):
            name = f"{low} px, {weights or 'denoiser'}, denoise {denoise:g}"
            latents = bench.draw(low, denoise)
            results |= bench.table(name, latents)
            if options.sheet:
                drawn = signed_to_arrays(bench.decode(latents, SIDE))
                write_sheet(options.sheet.with_stem(f"{options.sheet.stem}_{len(results)}"), list(zip(bench.low[low], drawn, bench.truth[SIDE]))[:6])
            if options.consistent:
                few = latents[:options.consistent]
                pairs = self_ssim({side: bench.decode(few, side) for side in CONSISTENT_SIDES})
                results[f"{name}, SelfSSIM"] = {f"{a} and {b} px": v for (a, b), v in pairs.items()}
    return results


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench arbitrary", description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the first scene; nothing below 6,000,000 is held out")
    parser.add_argument("--low", type=int, nargs="+", default=[64], help="sides of the low-resolution pictures, px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--denoise", type=float, nargs="+", default=[1.0, 0.7], help="1 starts from noise, as the paper, less from the low-resolution picture")
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="further files to measure beside the bundled one, such as one from before the alignment")
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True, help="whether to measure what stands beside the denoiser")
    parser.add_argument("--consistent", type=int, default=4, help="scenes for SelfSSIM, decoded at 2x, 3.7x and 8x of 128 px")
    parser.add_argument("--sheet", type=Path, help="write contact sheets")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in measure(options).items()}, indent=1))
