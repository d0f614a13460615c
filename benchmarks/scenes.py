"""Scenes of the mini world at a scale, and how an image of one compares with what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from ..methods.regions import RegionLayout
from ..training.mini.render import render
from ..training.mini.scenes import Scene, caption
from .scoring import outer_border, psnr_of_arrays, score_images, seam, sharpness
from .world import NATIVE_CELLS, World

SMALL = 128
METRICS = ("extra", "right", "base", "truth", "sharp", "seam", "border")


class Scenes:
    """`small` and `true` give the SMALL px and the SMALL * scale px image of scene i, `ideal` the true one through the
    autoencoder, which no image of this world can beat."""

    def __init__(self, world: World, scale: int, scenes: Sequence[Scene]):
        self.world, self.scale, self.scenes = world, scale, scenes
        self.small = cache(lambda i: render(self.scenes[i], SMALL, 1))
        self.true = cache(lambda i: render(self.scenes[i], SMALL * scale, 1))
        self.ideal = cache(lambda i: world.decode(world.encode([self.true(i)]))[0])

    def __len__(self) -> int:
        return len(self.scenes)

    def caption(self, i: int) -> str:
        return caption(self.scenes[i])

    def score(self, i: int, image: np.ndarray, overlap: float = 0.25) -> dict[str, float]:
        """METRICS of an image of scene i.

        extra    things that nobody asked for
        right    share of the scene's things that the detector finds with their shape and color
        base     PSNR of the shrunk image to the small one (dB)
        truth    PSNR to the true image (dB)
        sharp    mean absolute Laplacian over that of the ideal image
        seam     steps across the borders of regions at this overlap over those of the ideal image there
        border   saturation of the outer 8 px against 16 to 48 px in, over the same of the ideal image
        """
        shrunk = cv2.resize(image, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        lines = RegionLayout.from_overlap(*(side // 8 for side in image.shape[:2]), NATIVE_CELLS, NATIVE_CELLS, overlap)
        ideal, found = self.ideal(i), score_images(self.world.detector, [image], [self.scenes[i]])
        return {
            "extra": found["extra"],
            "right": found["color"],
            "base": psnr_of_arrays(shrunk, self.small(i)),
            "truth": psnr_of_arrays(image, self.true(i)),
            "sharp": sharpness(image) / sharpness(ideal),
            "seam": seam(image, lines, 8) / seam(ideal, lines, 8),
            "border": outer_border(image) / outer_border(ideal),
        }
