"""`bench clearsr`: what ClearSR restores on the mini world (held-out scenes), with its parts and Latent Adjustment.

Images of 128 px are degraded as in training (`training/degradation.py`), enlarged to their old size and restored by
ComfyUI's own sampling. Fidelity is PSNR to the true image and the detector's adherence to the scene; detail is the
energy of the image's fine band relative to the true image's; sharp, which needs no true image, is its mean
absolute Laplacian in 8-bit levels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import comfy.sample
import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..models.clearsr.loaded import ClearSRControl
from ..models.files import BUNDLED
from ..patches.clearsr import patch_decoder, with_control
from ..patches.latent_adjustment import LatentAdjustment
from ..training.degradation import degrade
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED
from .scoring import detail, psnr, score_images, sharpness
from .world import World, held_out_scenes, to_arrays, to_image, write_sheet

NATIVE = 128


class Bench:
    """Held-out scenes, their degraded images, and the mini world to restore them."""

    def __init__(self, options):
        self.options = options
        self.scenes = held_out_scenes(options.scenes)
        true = [render(scene, NATIVE) for scene in self.scenes]
        low = [degrade(p, np.random.RandomState(HELD_OUT_SEED + i), options.scale, options.strength) for i, p in enumerate(true)]
        self.true = to_image(true)
        self.low = to_image([cv2.resize(p, (NATIVE, NATIVE), interpolation=cv2.INTER_CUBIC) for p in low])
        self.world = World()
        self.vae = self.world.vae
        self.control = ClearSRControl.from_file(str(options.file))

    def score(self, image: torch.Tensor) -> dict[str, float]:
        found = score_images(self.world.detector, to_arrays(image), self.scenes)
        return {"psnr": psnr(image.movedim(-1, 1) * 2 - 1, self.true.movedim(-1, 1) * 2 - 1), "shape": found["shape"], "colour": found["colour"], "extra": found["extra"], "detail": mean(detail, image) / mean(detail, self.true), "sharp": mean(sharpness, 255 * image)}

    def sample(self, model, positive, latent, denoise=1.0) -> torch.Tensor:
        o = self.options
        noise = comfy.sample.prepare_noise(latent, o.seed)
        out = comfy.sample.sample(model, noise, o.steps, 1.0, o.sampler, o.scheduler, positive, self.world.empty, latent, denoise=denoise, disable_pbar=True, seed=o.seed)
        return self.vae.decode(out)

    def alone(self, denoise) -> torch.Tensor:
        """The mini world without control, from the low-quality image's latent."""
        return self.sample(self.world.model, self.world.empty, self.vae.encode(self.low), denoise)

    def clearsr(self, lsa=None, gspm=True, decoder_lora=True, encoder_lora=True, strength=1.0, denoise=1.0) -> torch.Tensor:
        """lsa: alpha and beta of Latent Adjustment. A part that is off was there in training."""
        control = self.control.copy().set_cond_hint(self.low.movedim(-1, 1), strength, vae=self.vae)
        control.vae = control.vae if encoder_lora else self.vae
        latent = self.vae.encode(self.low)
        model = patch_decoder(self.world.model, self.control) if decoder_lora else self.world.model
        if lsa is not None:
            model = with_parts(model, LatentAdjustment(control.vae.encode(self.low), *lsa, boundaries="steps"))
        network = control.control_model
        kept, network.gspm = network.gspm, network.gspm if gspm else None
        restored = self.sample(model, with_control(self.world.empty, control, {}), latent, denoise)
        network.gspm = kept
        return restored


def mean(score, image: torch.Tensor) -> float:
    return float(np.mean([score(one) for one in image.numpy()]))


def rows(bench: Bench):
    """(name, restored images) of every row."""
    yield "bicubic", bench.low
    yield "bicubic through the autoencoder", bench.vae.decode(bench.vae.encode(bench.low))
    yield "true picture through the autoencoder", bench.vae.decode(bench.vae.encode(bench.true))
    for denoise in (0.3, 0.6, 1.0):
        yield f"mini world alone, denoise {denoise}", bench.alone(denoise)
    yield "ClearSR", bench.clearsr()
    yield "ClearSR, denoise 0.6", bench.clearsr(denoise=0.6)
    if bench.options.parts:
        yield "ClearSR, ELA 0.01", bench.clearsr(lsa=(0.01, 0.0))
        yield "ClearSR, LLA 0.01", bench.clearsr(lsa=(0.0, 0.01))
        yield "ClearSR, both 0.01", bench.clearsr(lsa=(0.01, 0.01))
        yield "ClearSR, ELA 0.03", bench.clearsr(lsa=(0.03, 0.0))
        yield "ClearSR, ELA 0.03, LLA 0.01", bench.clearsr(lsa=(0.03, 0.01))
        yield "GSPM's signals off", bench.clearsr(gspm=False)
        yield "decoder LoRA off", bench.clearsr(decoder_lora=False)
        yield "encoder LoRA off", bench.clearsr(encoder_lora=False)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench clearsr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=48, help="held-out scenes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="ddim_uniform")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, default=BUNDLED / "mini_clearsr.safetensors")
    parser.add_argument("--scale", type=float, default=4, help="of the degradation")
    parser.add_argument("--strength", type=float, default=1, help="of the degradation")
    parser.add_argument("--parts", action=argparse.BooleanOptionalAction, default=True, help="Latent Adjustment and the parts one by one")
    parser.add_argument("--sheet", type=Path, help="write the first pictures of every row as a contact sheet")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    bench = Bench(options)
    sheet = [to_arrays(bench.true[:8])]
    for name, image in rows(bench):
        print(json.dumps({"row": name, **{k: round(v, 3) for k, v in bench.score(image).items()}}), flush=True)
        sheet.append(to_arrays(image[:8]))
    if options.sheet:
        write_sheet(options.sheet, sheet)
