"""`bench arbitrary`: arbitrary-scale upsampling on held-out scenes of the mini world, one latent decoded to several sizes.

A low-resolution picture of a scene (`--low` px) leads the denoiser to one 32 x 32 latent, which the frozen autoencoder
decodes at 256 px and the implicit decoder at any size. Beside it: the low-resolution picture enlarged (bicubic), the
same through the autoencoder, and the autoencoder on the true picture, which no denoiser can beat. PSNR to the true
render (dB), gradient error (share of the true gradients' mean), adherence to the caption, Fréchet distance of detector
features to true renders of the same scenes, and SelfSSIM: similarity of one latent's pictures at two sizes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import comfy.sample
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from safetensors.torch import load_file

from ..host import mini
from ..training.mini.arbitrary import Decoder
from ..training.mini.low_resolution import SIDE, low_resolution
from ..training.mini.render import render, shrink
from ..training.mini.scenes import HELD_OUT_SEED, caption, sample_scene
from .scoring import (
    frechet_distance,
    load_detector,
    psnr,
    score_pictures,
    self_ssim,
    ssim,
)

CONSISTENT_SIDES = (256, 474, 1024)  # 2x, 3.7x and 8x of 128 px


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1


def to_arrays(pictures: torch.Tensor) -> list[np.ndarray]:
    return list(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy())


class Bench:
    def __init__(self, options):
        self.options = options
        self.scenes = [sample_scene(options.seed + i) for i in range(options.scenes)]
        large = [render(scene, 2 * SIDE, 1) for scene in self.scenes]
        self.truth = {2 * SIDE: large, SIDE: [shrink(picture, SIDE) for picture in large]}
        self.low = {low: [low_resolution(picture, low) for picture in self.truth[SIDE]] for low in options.low}
        self.model, self.clip, self.vae = mini.load_arbitrary(), mini.load_clip(), mini.load_vae()
        self.decoder, self.detector = Decoder("cpu"), load_detector()

    def encode(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def use(self, weights: Path | None) -> None:
        if weights:
            self.model.model.diffusion_model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})

    def draw(self, low: int) -> torch.Tensor:
        """Scaled latents (B, 4, 32, 32), drawn as a workflow draws them."""
        found = []
        for i, (scene, picture) in enumerate(zip(self.scenes, self.low[low])):
            prompts = self.encode(caption(scene)), self.encode("")
            image = torch.from_numpy(picture)[None].float() / 255
            positive, negative, empty = InstructPixToPixConditioning.execute(*prompts, image, self.vae).result
            noise = comfy.sample.prepare_noise(empty["samples"], i)
            found.append(comfy.sample.sample(self.model, noise, self.options.steps, self.options.cfg, self.options.sampler, "ddim_uniform", positive, negative,
                                             empty["samples"], disable_pbar=True, seed=i))
        return self.model.model.process_latent_in(torch.cat(found))

    def encoded(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.decoder.vae.encode(part) for part in pictures.split(8)]) * self.decoder.scale

    def decode(self, latents: torch.Tensor, side: int) -> torch.Tensor:
        """The implicit decoder's pictures (B, 3, side, side); at the autoencoder's own size the autoencoder's."""
        found = []
        for z in latents.split(1):
            decoded = self.decoder.network.features(self.decoder.vae, z / self.decoder.scale)
            found.append(decoded.picture if side == SIDE else self.decoder.network(decoded, (side, side), rows=64))
        return torch.cat(found)

    def quality(self, pictures: torch.Tensor, side: int) -> dict[str, float]:
        true = to_tensor(self.truth[side])
        pictures = pictures.clamp(-1, 1)
        edges = [(pictures.diff(dim=d) - true.diff(dim=d)).abs().mean() / true.diff(dim=d).abs().mean() for d in (-1, -2)]
        scores = score_pictures(self.detector, to_arrays(pictures), self.scenes)
        return {"psnr": psnr(pictures, true), "gradient_error": sum(edges).item() / 2, "ssim": ssim(pictures, true).mean().item(),
                "frechet": frechet_distance(self.detector, to_arrays(pictures), self.truth[side]), "colour": scores["colour"], "extra": scores["extra"]}

    def table(self, name: str, latents: torch.Tensor) -> dict[str, dict[str, float]]:
        return {f"{name}, {side} px": self.quality(self.decode(latents, side), side) for side in self.truth}


@torch.no_grad()
def measure(options) -> dict[str, dict[str, float]]:
    bench = Bench(options)
    results = bench.table("autoencoder on the true picture", bench.encoded(to_tensor(bench.truth[SIDE])))
    for low, pictures in bench.low.items():
        shrunk = to_tensor([shrink(picture, low) for picture in bench.truth[SIDE]])
        for side in bench.truth:
            results[f"{low} px, bicubic, {side} px"] = bench.quality(F.interpolate(shrunk, (side, side), mode="bicubic"), side)
        results |= bench.table(f"{low} px, through the autoencoder", bench.encoded(to_tensor(pictures)))
    for name, weights in {"denoiser": None, **{str(path): path for path in options.weights}}.items():
        bench.use(weights)
        for low in bench.low:
            latents = bench.draw(low)
            results |= bench.table(f"{low} px, {name}", latents)
            if options.sheet:
                write_sheet(options.sheet.with_stem(f"{options.sheet.stem}_{low}_{Path(name).name}"), bench, low, latents)
            if options.consistent:
                few = latents[:options.consistent]
                pairs = self_ssim({side: bench.decode(few, side) for side in CONSISTENT_SIDES})
                results[f"{low} px, {name}, SelfSSIM"] = {f"{a} and {b} px": v for (a, b), v in pairs.items()}
    return results


def write_sheet(path: Path, bench: Bench, low: int, latents: torch.Tensor) -> None:
    """Rows of low-resolution picture, denoiser's picture and truth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [np.concatenate(row, 1) for row in zip(bench.low[low], to_arrays(bench.decode(latents, SIDE)), bench.truth[SIDE])]
    cv2.imwrite(str(path), np.concatenate(columns[:6])[..., ::-1])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench arbitrary", description=__doc__)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the first scene; nothing below 6,000,000 is held out")
    parser.add_argument("--low", type=int, nargs="+", default=[64, 128], help="sides of the low-resolution pictures, px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="further files to measure beside the bundled one, such as one from before the alignment")
    parser.add_argument("--consistent", type=int, default=4, help="scenes for SelfSSIM, decoded at 2x, 3.7x and 8x of 128 px")
    parser.add_argument("--sheet", type=Path, help="write contact sheets")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in measure(options).items()}, indent=1))
