"""`bench any-scale`: the implicit decoder against what else enlarges, on held-out scenes of the mini world.

A 128 px image is encoded; its latent becomes an image at 2x, 3x and 4x. PSNR to the true image (dB), gradient
error (share of the true gradients' mean), Fréchet distance of detector features to the true images, processor
seconds an image (one thread, so that other work on the machine hardly counts), and the memory that one image takes
beside the networks (MiB, of a fork of this process; Linux).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import comfy.utils
import torch

from ..models.files import BUNDLED
from ..models.implicit_decoder.loaded import AnyScale
from ..models.mini.world import NATIVE_SIZE
from . import peak_memory
from .mini_world import bicubic, held_out
from .scoring import frechet_distance, gradient_error, psnr, signed_to_arrays
from .world import World, write_sheet

Method = Callable[[torch.Tensor, int], torch.Tensor]


def methods(world: World, decoder: Path) -> dict[str, Method]:
    """Name -> function of an unscaled latent (1, 4, h, w) and a side in pixels to the image (1, side, side, 3)."""
    vae, upscaler = world.vae, world.upscaler
    plain, learned = AnyScale(vae, None), world.any_scale(decoder)

    def lanczos(z: torch.Tensor, side: int) -> torch.Tensor:
        return comfy.utils.common_upscale(vae.decode(z).movedim(-1, 1), side, side, "lanczos", "disabled").movedim(1, -1)

    return {
        "VAE decode, Lanczos": lanczos,
        "VAE decode, bicubic": lambda z, side: plain.decode(z, side, side, 128, 32),
        "implicit decoder": lambda z, side: learned.decode(z, side, side, 128, 32),
        "LSR, VAE decode": lambda z, side: vae.decode(upscaler.upscale(z, side // 8, side // 8)),
    }


@torch.inference_mode()
def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    world = World()
    known = methods(world, options.decoder)
    held = {}
    for scale in options.scales:  # first, while this process holds no buffers that a fork could use again
        for name, method in known.items():
            held[scale, name], _ = peak_memory.peak(lambda: method(torch.zeros(1, 4, NATIVE_SIZE // 8, NATIVE_SIZE // 8), scale * NATIVE_SIZE))
    truth = held_out(options.scenes, 512)
    latents = world.vae.encode(bicubic(truth, NATIVE_SIZE).add(1).div(2).movedim(1, -1))
    results, images = {}, {}
    for scale in options.scales:
        side = scale * NATIVE_SIZE
        true = truth if side == 512 else bicubic(truth, side)
        arrays = signed_to_arrays(true)
        for name, method in known.items():
            started = time.process_time()
            drawn = torch.cat([method(z[None], side) for z in latents]).float().movedim(-1, 1) * 2 - 1
            seconds = (time.process_time() - started) / len(latents)
            images[scale, name] = signed_to_arrays(drawn)
            results[f"{scale}x, {name}"] = {"psnr": psnr(drawn, true), "gradient_error": gradient_error(drawn, true),
                                            "frechet": frechet_distance(world.detector, images[scale, name], arrays), "seconds": seconds, "memory": held[scale, name]}
        images[scale, "true picture"] = arrays
    if options.sheet:
        columns = [drawn[:3] for (scale, _), drawn in images.items() if scale == max(options.scales)]
        write_sheet(options.sheet, list(zip(*columns)))
    return results


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench any-scale", description=__doc__)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--decoder", type=Path, default=BUNDLED / "mini_decoder.safetensors")
    parser.add_argument("--sheet", type=Path, help="write the first scenes at the largest scale as a contact sheet")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in run(options).items()}, indent=1))
