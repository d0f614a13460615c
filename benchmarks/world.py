"""The mini world in ComfyUI, loaded once for every benchmark.

An image is uint8 RGB (H, W, 3), an IMAGE ComfyUI's float (B, H, W, 3) in [0, 1]. Latents are unscaled, (B, 4, h, w).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import comfy.sample
import comfy.samplers
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ..engine.sigmas import PAPER_SCHEDULE, schedule
from ..methods.noise import seeded_noise
from ..models.files import BUNDLED
from ..models.implicit_decoder.loaded import AnyScale, LoadedDecoder
from ..models.lsr.loaded import LatentUpscaler
from ..models.mini import loaded as mini
from ..training.mini.scenes import HELD_OUT_SEED, Scene, sample_scene
from ..training.plots import write_png
from .scoring import load_detector

NATIVE_CELLS = 16  # latent cells a side of a native image, 128 px
STEPS = 50  # of the papers' schedule


class NetworkCall(NamedTuple):
    """rows: one image and one guidance branch each. seconds: processor time."""

    rows: int
    seconds: float


class World:
    """The bundled networks, each loaded when it is first asked for. `calls` lists the network's calls; clear it at will."""

    def __init__(self, variant: mini.Variant = mini.VARIANTS["text to image"]):
        self.variant = variant
        self.calls: list[NetworkCall] = []

    @cached_property
    def model(self):
        model = self.variant.model()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", self._count)
        return model

    @cached_property
    def clip(self):
        return self.variant.clip()

    @cached_property
    def vae(self):
        return mini.load_vae()

    @cached_property
    def upscaler(self) -> LatentUpscaler:
        return LatentUpscaler.from_file(str(BUNDLED / "mini_lsr.safetensors"), "mini_lsr.safetensors")

    @cached_property
    def detector(self):
        return load_detector()

    @cached_property
    def empty(self) -> list:
        return self.prompt("")

    @property
    def rows(self) -> int:
        return sum(call.rows for call in self.calls)

    def any_scale(self, path: Path = BUNDLED / "mini_decoder.safetensors") -> AnyScale:
        """The autoencoder with an implicit decoder, by default the bundled one."""
        return AnyScale(self.vae, LoadedDecoder.from_file(str(path), path.name))

    def prompt(self, text: str) -> list:
        """CONDITIONING."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def encode(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Latents of equally large images."""
        return self.vae.encode(to_image(images))

    def decode(self, latents: torch.Tensor) -> list[np.ndarray]:
        return to_arrays(self.vae.decode(latents))

    def schedule(self, depth: int = STEPS) -> torch.Tensor:
        """The last `depth` of the papers' noise levels, and 0."""
        return schedule(self.model, PAPER_SCHEDULE, depth, depth / STEPS)

    def denoise(self, model, positive: list, latent: torch.Tensor, seed: int, sigmas: torch.Tensor, cfg: float, sampler: str = "euler") -> torch.Tensor:
        """`latent` denoised along `sigmas` from `seeded_noise` on it, by a patched `model` of this world."""
        noise = seeded_noise(latent.shape, seed)
        return comfy.sample.sample_custom(model, noise, cfg, comfy.samplers.sampler_object(sampler), sigmas, positive, self.empty, latent, disable_pbar=True, seed=seed)

    def _count(self, executor, x, *args, **kwargs):
        started = time.process_time()
        out = executor(x, *args, **kwargs)
        self.calls.append(NetworkCall(len(x), time.process_time() - started))
        return out


def held_out_scenes(count: int, first: int = HELD_OUT_SEED) -> list[Scene]:
    """Nothing below HELD_OUT_SEED is held out."""
    return [sample_scene(first + i) for i in range(count)]


def to_image(images: Sequence[np.ndarray]) -> torch.Tensor:
    """IMAGE of equally large images."""
    return torch.from_numpy(np.stack(images)).float() / 255


def to_arrays(image: torch.Tensor) -> list[np.ndarray]:
    """Images of an IMAGE."""
    return list((image.clamp(0, 1) * 255).round().byte().numpy())


def write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """A contact sheet of equally large images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.concatenate([np.concatenate(row, 1) for row in rows]))
