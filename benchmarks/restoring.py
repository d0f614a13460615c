"""What ClearSR restores: images of 128 px, degraded as in training (`training/degradation.py`) and enlarged to their old
size. A part that is off was there in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import comfy.sample
import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..models.clearsr.loaded import ClearSRControl
from ..models.clearsr.network import ClearSR, RestoringBlock
from ..models.files import BUNDLED
from ..patches.clearsr import patch_decoder, with_control
from ..patches.latent_adjustment import LatentAdjustment
from ..training.degradation import degrade
from ..training.mini.scenes import HELD_OUT_SEED
from .scenes import SMALL, Scenes
from .scoring import detail, psnr_of_arrays, score_images, sharpness
from .world import World, held_out_scenes, to_image

STEPS = 20


@dataclass(frozen=True)
class Restored:
    """method: "enlarged" (bicubic), "autoencoder" (the same, encoded and decoded), "true" (the true image, so), "alone" (the
    denoiser without ClearSR) or "clearsr". alpha, beta: Latent Adjustment's, whose reference is the latent of the encoder
    with LoRA, or without it (plain). mirrored: the windows see the image the wrong way round."""

    method: str
    denoise: float = 1.0
    windows: bool = True
    gspm: bool = True
    decoder_lora: bool = True
    encoder_lora: bool = True
    alpha: float = 0.0
    beta: float = 0.0
    plain: bool = False
    mirrored: bool = False


class Restoring:
    """A lab. scale: how much smaller the degraded image is."""

    world = "restoring"
    weights = ("unet", "text", "vae", "clearsr", "detector")
    metrics = ("truth", "right", "extra", "detail", "sharp")

    def __init__(self, scale: int, scenes: int):
        self.scale, self.mini = scale, World()
        self.scenes = Scenes(self.mini, 1, held_out_scenes(scenes))

    @cached_property
    def control(self) -> ClearSRControl:
        return ClearSRControl.from_file(str(BUNDLED / "mini_clearsr.safetensors"))

    def measure(self, arm: Restored, i: int) -> tuple[np.ndarray, dict[str, float]]:
        true, ideal = self.scenes.true(i), self.scenes.ideal(i)
        image = self.image(arm, i)
        found = score_images(self.mini.detector, [image], [self.scenes.scenes[i]])
        return image, {
            "truth": psnr_of_arrays(image, true),
            "right": found["color"],
            "extra": found["extra"],
            "detail": detail(image / 255.0) / detail(true / 255.0),
            "sharp": sharpness(image) / sharpness(ideal),
        }

    def low(self, i: int) -> np.ndarray:
        low = degrade(self.scenes.true(i), np.random.RandomState(HELD_OUT_SEED + i), self.scale, 1)
        return cv2.resize(low, (SMALL, SMALL), interpolation=cv2.INTER_CUBIC)

    def image(self, arm: Restored, i: int) -> np.ndarray:
        if arm.method == "true":
            return self.scenes.ideal(i)
        low = self.low(i)
        if arm.method == "enlarged":
            return low
        latent = self.mini.encode([low])
        if arm.method == "clearsr":
            latent = self.restored(arm, to_image([low]), latent, i)
        elif arm.method == "alone":
            latent = self.sampled(self.mini.model, self.mini.empty, latent, arm.denoise, i)
        return self.mini.decode(latent)[0]

    def restored(self, arm: Restored, low: torch.Tensor, latent: torch.Tensor, seed: int) -> torch.Tensor:
        control = self.control.copy().set_cond_hint(low.movedim(-1, 1), 1.0, vae=self.mini.vae)
        control.vae = control.vae if arm.encoder_lora else self.mini.vae
        model = patch_decoder(self.mini.model, self.control) if arm.decoder_lora else self.mini.model
        if arm.alpha or arm.beta:
            reference = (self.mini.vae if arm.plain else control.vae).encode(low)
            model = with_parts(model, LatentAdjustment(reference, arm.alpha, arm.beta, boundaries="steps"))
        with reduced(control.control_model, arm):
            return self.sampled(model, with_control(self.mini.empty, control, {}), latent, arm.denoise, seed)

    def sampled(self, model, positive: list, latent: torch.Tensor, denoise: float, seed: int) -> torch.Tensor:
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(model, noise, STEPS, 1.0, "euler", "ddim_uniform", positive, self.mini.empty, latent, denoise=denoise, disable_pbar=True, seed=seed)


class Mirrored(torch.nn.Module):
    """A window attention whose keys are those of the mirrored image."""

    def __init__(self, attention: torch.nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor, size: tuple[int, int], x_lr: torch.Tensor) -> torch.Tensor:
        return self.attention(x, size, x_lr.flip(-1))


@contextmanager
def reduced(network: ClearSR, arm: Restored) -> Iterator[None]:
    """`network` without the parts that `arm` has off."""
    blocks = [module for module in network.modules() if isinstance(module, RestoringBlock)]
    kept = network.gspm, [block.attn_lr for block in blocks]
    network.gspm = network.gspm if arm.gspm else None
    for block in blocks:
        block.attn_lr = Mirrored(block.attn_lr) if arm.mirrored else block.attn_lr if arm.windows else None
    try:
        yield
    finally:
        network.gspm = kept[0]
        for block, attention in zip(blocks, kept[1]):
            block.attn_lr = attention
