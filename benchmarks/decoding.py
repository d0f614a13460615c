"""Arbitrary scales: one latent decoded to images of several sizes, and the latent that a denoiser makes of a small image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import comfy.sample
import comfy.utils
import cv2
import numpy as np
import torch
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

from ..models.implicit_decoder.loaded import AnyScale
from ..models.mini import loaded as mini
from ..training.images import shrink, to_tensor
from ..training.mini.low_resolution import SIDE, low_resolution
from ..training.mini.render import render
from .scenes import SMALL, Scenes
from .scoring import gradient_error, psnr_of_arrays, score_images, ssim
from .world import World, held_out_scenes, to_arrays, to_image

LOW = 64  # px, of the image that leads the denoiser
LARGE = 1024  # px
STEPS = 20


@dataclass(frozen=True)
class Decoded:
    """decoder: "lanczos" or "bicubic" (of the autoencoder's image), "implicit", or "lsr" (enlarges the latent). Of the latent
    of a 128 px image."""

    decoder: str


@dataclass(frozen=True)
class Drawn:
    """The latent of SIDE px that `source` makes of a LOW px image: "noise" (the denoiser from noise alone, as the paper),
    "image" (from the image's latent, denoise .7), "autoencoder" (that latent as it is), "true" (the true image's), or
    "bicubic", which resizes pixels. decoder: as in `Decoded`, beyond SIDE px."""

    source: str
    decoder: str = "implicit"


class Scale:
    """What the labs below have in common: images of one size, shrunk from one large render, and their metrics."""

    def __init__(self, world: World, scale: int, scenes: int):
        self.scale, self.mini = scale, world
        self.scenes = Scenes(world, 1, held_out_scenes(scenes))
        self.plain, self.learned = AnyScale(world.vae, None), world.any_scale()
        self.large = cache(lambda i: render(self.scenes.scenes[i], LARGE, 1))

    def true(self, i: int, side: int) -> np.ndarray:
        return shrink(self.large(i), side)

    def decode(self, decoder: str, latent: torch.Tensor, side: int) -> np.ndarray:
        if decoder == "lanczos":
            image = comfy.utils.common_upscale(self.mini.vae.decode(latent).movedim(-1, 1), side, side, "lanczos", "disabled").movedim(1, -1)
        elif decoder == "lsr":
            image = self.mini.vae.decode(self.mini.upscaler.upscale(latent, side // 8, side // 8))
        else:
            image = (self.learned if decoder == "implicit" else self.plain).decode(latent, side, side, 128, 32)
        return to_arrays(image)[0]

    def score(self, i: int, image: np.ndarray, native: np.ndarray) -> dict[str, float]:
        """`native` is the image of the same latent at the autoencoder's own size."""
        true = self.true(i, len(image))
        even = image + (true.mean((0, 1)) - image.mean((0, 1)))
        return {
            "truth": psnr_of_arrays(image, true),
            "even": psnr_of_arrays(even.clip(0, 255), true),
            "gradient": gradient_error(to_tensor(image[None]), to_tensor(true[None])),
            "similar": ssim(to_tensor(cv2.resize(image, native.shape[1::-1], interpolation=cv2.INTER_AREA)[None]), to_tensor(native[None])).item(),
            "right": score_images(self.mini.detector, [image], [self.scenes.scenes[i]])["color"],
        }


class Decoding(Scale):
    """A lab. scale: of the image over the encoded one."""

    world = "decoding"
    weights = ("vae", "decoder", "lsr", "detector")
    metrics = ("truth", "even", "gradient", "similar", "right")

    def __init__(self, scale: int, scenes: int):
        super().__init__(World(), scale, scenes)

    def measure(self, arm: Decoded, i: int) -> tuple[np.ndarray, dict[str, float]]:
        latent = self.mini.encode([self.true(i, SMALL)])
        image = self.decode(arm.decoder, latent, self.scale * SMALL)
        return image, self.score(i, image, self.mini.decode(latent)[0])


class Drawing(Scale):
    """A lab. scale: of the image over the one of LOW px that leads to it."""

    world = "drawing"
    weights = ("arbitrary", "text", "vae", "decoder", "detector")
    metrics = Decoding.metrics

    def __init__(self, scale: int, scenes: int):
        super().__init__(World(mini.VARIANTS["arbitrary scale"]), scale, scenes)

    def measure(self, arm: Drawn, i: int) -> tuple[np.ndarray, dict[str, float]]:
        side = self.scale * LOW
        if arm.source == "bicubic":
            low = self.true(i, LOW)
            image = cv2.resize(low, (side, side), interpolation=cv2.INTER_CUBIC)
            return image, self.score(i, image, cv2.resize(low, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
        latent = self.latent(arm, i)
        native = self.mini.decode(latent)[0]
        image = native if side == SIDE else self.decode(arm.decoder, latent, side)
        return image, self.score(i, image, native)

    def latent(self, arm: Drawn, i: int) -> torch.Tensor:
        if arm.source == "true":
            return self.mini.encode([self.true(i, SIDE)])
        low = low_resolution(self.true(i, SIDE), LOW)
        if arm.source == "autoencoder":
            return self.mini.encode([low])
        prompts = self.mini.prompt(self.scenes.caption(i)), self.mini.empty
        positive, negative, empty = InstructPixToPixConditioning.execute(*prompts, to_image([low]), self.mini.vae).result
        start, denoise = (empty["samples"], 1.0) if arm.source == "noise" else (positive[0][1]["concat_latent_image"], 0.7)
        noise = comfy.sample.prepare_noise(start, i)
        return comfy.sample.sample(self.mini.model, noise, STEPS, 1.0, "euler", "normal", positive, negative, start, denoise=denoise, disable_pbar=True, seed=i)
