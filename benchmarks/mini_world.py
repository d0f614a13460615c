"""`bench mini-world`: what the bundled networks reach on held-out scenes (seeds of 6,000,000 and above)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import comfy.sample
import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..engine.sigmas import levels_of
from ..models import lsr
from ..models.files import BUNDLED
from ..models.mini import loaded as mini
from ..training.images import to_tensor
from ..training.mini.denoiser import load_vae
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED, caption, sample_scene
from . import mini_files
from .patch_distance import distances
from .scoring import load_detector, psnr, score_images


def bicubic(x: torch.Tensor, side: int) -> torch.Tensor:
    """Antialiased bicubic (a = -0.5) on [-1, 1], quantized downwards to 8 bit."""
    y = F.interpolate(x, (side, side), mode="bicubic", antialias=True)
    return ((y + 1) * 127.5).clamp(0, 255).floor() / 127.5 - 1


def held_out(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) in [-1, 1], all derived from the same 512 px renders."""
    full = to_tensor(np.stack([render(sample_scene(HELD_OUT_SEED + i), 512, 1) for i in range(count)]))
    return full if size == 512 else bicubic(full, size)


def to_arrays(images: torch.Tensor) -> list[np.ndarray]:
    """uint8 RGB images of a tensor in -1 .. 1."""
    return list(((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy())


def chunked(function, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([function(part) for part in x.split(8)])


@torch.no_grad()
def reconstruction(count: int) -> dict[str, dict[str, float]]:
    """Autoencoder ceiling and latent upscaling: PSNR of the decoded image to the true one, L1 between scaled latents, and
    the distance of its patches from the true one's through the autoencoder, with its 95 % interval."""
    vae, scale = load_vae()
    net, _ = lsr.load(str(BUNDLED / "mini_lsr.safetensors"))
    images = {size: held_out(count, size) for size in (128, 256, 512)}
    latents = {size: chunked(vae.encode, x) * scale for size, x in images.items()}

    def shown(z: torch.Tensor) -> torch.Tensor:
        return chunked(vae.decode, z / scale)

    best = {size: to_arrays(shown(z)) for size, z in latents.items()}

    def quality(z: torch.Tensor, size: int) -> dict[str, float]:
        image = shown(z)
        patches = distances(to_arrays(image), best[size])
        low, high = np.percentile(patches[1:], [2.5, 97.5])
        return {"psnr": psnr(image, images[size]), "latent_l1": (z - latents[size]).abs().mean().item(), "patches": patches[0], "patches_low": low, "patches_high": high}

    table = {f"autoencoder {size}": quality(latents[size], size) for size in images}
    for low, high in ((128, 256), (128, 512), (256, 512)):
        side = (high // 8, high // 8)
        enlarged = F.interpolate(chunked(vae.decode, latents[low] / scale), (high, high), mode="bicubic")
        table[f"{low} to {high}, bicubic latent"] = quality(F.interpolate(latents[low], side, mode="bicubic"), high)
        table[f"{low} to {high}, bicubic image"] = quality(chunked(vae.encode, enlarged.clamp(-1, 1)) * scale, high)
        table[f"{low} to {high}, LSR"] = quality(chunked(lambda z: net(z, side), latents[low]), high)
    return table


@torch.inference_mode()
def sampling(variant: mini.Variant, count: int, steps: int, cfg: float, sheet: Path | None) -> dict[str, float]:
    """Detector adherence of base samples through ComfyUI's own sampling."""
    model, clip, vae = variant.model(), variant.clip(), mini.load_vae()
    scheduler = "ddim_uniform" if levels_of(model.get_model_object("model_sampling")).table else "simple"
    scenes = [sample_scene(HELD_OUT_SEED + i) for i in range(count)]
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    images = []
    for i, scene in enumerate(scenes):
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(caption(scene)))
        latent = torch.zeros(1, 4, 16, 16)
        noise = comfy.sample.prepare_noise(latent, i)
        out = comfy.sample.sample(model, noise, steps, cfg, "euler", scheduler, positive, negative, latent, disable_pbar=True, seed=i)
        images.append((vae.decode(out)[0].numpy() * 255).round().astype(np.uint8))
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        rows = [np.concatenate(images[i:i + 8], 1) for i in range(0, count - count % 8, 8)]
        cv2.imwrite(str(sheet), np.concatenate(rows)[..., ::-1])
    net = load_detector()
    truth = [render(scene, 128) for scene in scenes]
    return {"samples": score_images(net, images, scenes), "true renders": score_images(net, truth, scenes)}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench mini-world", description=__doc__)
    parser.add_argument("--scenes", type=int, default=48, help="held-out scenes for the autoencoder and LSR")
    parser.add_argument("--captions", type=int, default=64, help="held-out captions for base samples")
    parser.add_argument("--variant", choices=list(mini.VARIANTS), default=next(iter(mini.VARIANTS)), help="of Load Mini World, for base samples")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path, help="write the samples as a contact sheet")
    parser.add_argument("--files", action="store_true", help="write the table of files into docs/mini-world.md, and measure nothing")
    options = parser.parse_args(argv)
    if options.files:
        mini_files.write()
        return
    torch.set_num_threads(1)
    results = {}
    if options.scenes:
        results |= reconstruction(options.scenes)
    if options.captions:
        results |= sampling(mini.VARIANTS[options.variant], options.captions, options.steps, options.cfg, options.sheet)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in results.items()}, indent=1))
