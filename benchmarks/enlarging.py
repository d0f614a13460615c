"""Enlarges images of the mini world by a `Setting`."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..engine.latents import resize
from ..engine.sigmas import PAPER_SCHEDULE, levels_of, schedule
from ..methods.region_noise import edges, start_factor, strength_map
from ..methods.regions import RegionLayout
from ..methods.schedules import DEMOFUSION_RATIO
from ..models.captioner import caption_with_clip
from ..models.mini import loaded as mini
from ..patches import pixelsmith
from ..patches.attention_prior import AttentionPrior
from ..patches.demofusion import DilatedPass, Renormalize, SkipResidual
from ..patches.demofusion_sampler import phase_sizes
from ..patches.guidance_interval import GuidanceInterval
from ..patches.inject_noise import InjectNoise
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.region_noise import add_region_noise
from ..patches.region_prompts import crops_of, encode_regions
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.scenes import crop_caption
from .scenes import Scenes
from .settings import Setting
from .world import NATIVE_CELLS, World, to_image

NATIVE = (NATIVE_CELLS, NATIVE_CELLS)
CAPTION_TOKENS = 30
CFG = 4.0
CFG_OF = {"flow in few steps": 1.0}  # by variant, where it is not CFG


class Enlarger(World):
    def __init__(self, variant: str):
        super().__init__(mini.VARIANTS[variant])
        self.cfg = CFG_OF.get(variant, CFG)

    def image(self, setting: Setting, scenes: Scenes, i: int, seed: int) -> np.ndarray:
        """The small image of scene i at the scale of `scenes`, drawn again by `setting`."""
        small = scenes.small(i)
        reference = self.encode([small])
        target = tuple(side * scenes.scale for side in reference.shape[-2:])
        if setting.method == "none":
            return cv2.resize(small, (target[1] * 8, target[0] * 8), interpolation=cv2.INTER_LANCZOS4)
        if setting.method == "encoded":
            return self.decode(self.guide(setting, small, reference, target))[0]
        highest = DEMOFUSION_RATIO if setting.method == "demofusion" and setting.scheduler != PAPER_SCHEDULE else float("inf")
        sigmas = schedule(self.model, setting.scheduler, setting.steps, setting.strength, highest=highest)
        positive = self.positive(setting, scenes, i, target)
        latent = reference
        for size in phase_sizes(tuple(reference.shape[-2:]), target, setting.progressive):
            guide = self.noisier(setting, self.guide(setting, small, latent, size), small, float(sigmas[0]), seed)
            latent = getattr(self, setting.method)(setting, positive, reference, guide, seed, sigmas)
        return self.decode(latent)[0]

    def guide(self, setting: Setting, small: np.ndarray, latent: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The enlarged image at `size` (height, width, cells), unscaled."""
        if setting.guide == "lsr":
            return self.upscaler.upscale(latent, *size)
        if setting.guide == "latent":
            return resize(latent, *size)
        return self.encode([cv2.resize(small, (size[1] * 8, size[0] * 8), interpolation=cv2.INTER_LANCZOS4)])

    def noisier(self, setting: Setting, guide: torch.Tensor, small: np.ndarray, sigma: float, seed: int) -> torch.Tensor:
        """`guide` with region-wise noise."""
        if not setting.edge_noise:
            return guide
        strengths = np.array([setting.edge_least, setting.edge_noise]) * start_factor(levels_of(self.model.get_model_object("model_sampling")).ratio(sigma))
        if setting.edge_map == "uniform":
            strengths[:] = strength_map(edges(to_image([small])[0], *setting.canny), guide.shape[-2:], *strengths).square().mean().sqrt()
        return add_region_noise(self.model, guide, to_image([small]), *strengths.tolist(), seed, setting.canny)[0]

    def positive(self, setting: Setting, scenes: Scenes, i: int, target: tuple[int, int]) -> list:
        """The caption of the scene, or one for each region."""
        whole = self.prompt(scenes.caption(i))
        if not setting.prompts:
            return whole
        layout = RegionLayout.from_overlap(*target, *NATIVE, setting.overlap)
        if setting.prompts == "scene":
            texts = [crop_caption(scenes.scenes[i], region.x / layout.width, region.y / layout.height, NATIVE_CELLS / layout.width) for region in layout.regions]
        else:
            enlarged = cv2.resize(scenes.small(i), (8 * layout.width, 8 * layout.height), interpolation=cv2.INTER_CUBIC)
            texts = list(caption_with_clip(self.clip, crops_of(to_image([enlarged]), layout), "", 90))
        return encode_regions(self.clip, texts, layout, whole, CAPTION_TOKENS)

    def cut(self, setting: Setting, seed: int) -> RegionalDenoise:
        return RegionalDenoise(NATIVE, setting.overlap, setting.blend, jitter=setting.jitter > 0, jitter_until=setting.jitter, shift=setting.shift, seed=seed, sizes="canvas")

    def shared(self, setting: Setting, reference: torch.Tensor, guide: torch.Tensor) -> list:
        """Parts that go with every sampler of the canvas."""
        parts = []
        if setting.structure:
            parts.append(StructurePrior(reference, setting.structure, mode=setting.structure_mode, schedule=setting.structure_schedule, clamp=setting.structure_mode != "paper"))
        if setting.attention:
            parts.append(AttentionPrior(reference))
        if setting.alpha or setting.beta:
            parts.append(LatentAdjustment(guide, setting.alpha, setting.beta, *setting.adjusted, boundaries="steps"))
        if setting.injected:
            parts.append(InjectNoise(setting.injected))
        return [*parts, *self.guided(setting)]

    def guided(self, setting: Setting) -> list:
        return [] if setting.guidance == (0.0, 1.0) else [GuidanceInterval(setting.guidance[1], setting.guidance[0])]

    def regions(self, setting: Setting, positive, reference, guide, seed, sigmas) -> torch.Tensor:
        model = with_parts(self.model, self.cut(setting, seed), *self.shared(setting, reference, guide))
        return self.denoise(model, positive, guide, seed, sigmas, self.cfg, setting.sampler)

    def canvas(self, setting: Setting, positive, reference, guide, seed, sigmas) -> torch.Tensor:
        """Without regions."""
        parts = self.shared(setting, reference, guide)
        return self.denoise(with_parts(self.model, *parts) if parts else self.model, positive, guide, seed, sigmas, self.cfg, setting.sampler)

    def demofusion(self, setting: Setting, positive, reference, guide, seed, sigmas) -> torch.Tensor:
        skip = [SkipResidual(guide)] if setting.skip else []
        parts = (DilatedPass(tuple(reference.shape[-2:]), least=setting.dilated), *skip, Renormalize(reference), *self.shared(setting, reference, guide))
        return self.denoise(with_parts(self.model, self.cut(setting, seed), *parts), positive, guide, seed, sigmas, self.cfg, setting.sampler)

    def pixelsmith(self, setting: Setting, positive, reference, guide, seed, sigmas) -> torch.Tensor:
        extra = self.guided(setting)
        model = with_parts(self.model, *extra) if extra else self.model
        guided = pixelsmith.guided_steps_of(self.model, sigmas, setting.guided_until)
        return pixelsmith.sample(model, positive, self.empty, guide, sigmas, guided, self.cfg, seed, NATIVE_CELLS, setting.order)
