"""What arms (ways to make an image) are measured in: a lab draws the images of one kind of arm and scores them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch

from .cache import Cache
from .enlarging import Enlarger
from .scenes import METRICS, Scenes
from .settings import Setting
from .world import held_out_scenes

MOST = 512  # held-out scenes


class Lab(Protocol):
    """world, scale: where the cache keeps its results. weights: bundled files that they hang on."""

    world: str
    weights: tuple[str, ...]
    scale: int
    metrics: tuple[str, ...]

    def measure(self, arm: object, i: int) -> tuple[np.ndarray, dict[str, float]]:
        """The image of held-out scene i, whose number is the seed too, and its metrics."""


class Enlarging:
    """`Setting`s on a variant of Load Mini World."""

    WEIGHTS = {"text to image": ("unet",), "flow": ("flow",), "flow in few steps": ("flow", "flow_lora")}
    metrics = ("rows", *METRICS)

    def __init__(self, variant: str, scale: int):
        self.world, self.scale = variant, scale
        self.weights = (*self.WEIGHTS[variant], "text", "vae", "lsr", "detector")
        self.enlarger = Enlarger(variant)
        self.scenes = Scenes(self.enlarger, scale, held_out_scenes(MOST))

    def measure(self, arm: Setting, i: int) -> tuple[np.ndarray, dict[str, float]]:
        self.enlarger.calls.clear()
        image = self.enlarger.image(arm, self.scenes, i, i)
        return image, {"rows": self.enlarger.rows, **self.scenes.score(i, image, arm.overlap)}


@torch.inference_mode()
def fill(lab: Lab, cache: Cache, arms: Iterable[object], count: int) -> None:
    """Measure what the cache lacks of the first `count` scenes."""
    for arm in arms:
        known = cache.of(arm, lab.scale)
        for i in range(min((len(known.get(metric, ())) for metric in lab.metrics)), count):
            _, values = lab.measure(arm, i)
            for metric in lab.metrics:
                column = known.setdefault(metric, [])
                column[i:i + 1] = [round(float(values[metric]), 4)]
            cache.write()


@torch.inference_mode()
def images(lab: Lab, arms: Iterable[object], count: int) -> list[list[np.ndarray]]:
    """Drawn, not kept: rows of a contact sheet."""
    return [[lab.measure(arm, i)[0] for i in range(count)] for arm in arms]
