"""Scenes to pixels, at any size."""

from __future__ import annotations

import cv2
import numpy as np

from .scenes import Scene
from .textures import TEXTURES, pixel_grid
from .things import paint


def render(scene: Scene, size: int, supersample: int = 2) -> np.ndarray:
    """The scene as (size, size, 3) uint8 RGB, box-filtered down from `supersample` times the size."""
    inner = size * supersample
    x, y = pixel_grid(inner)
    image = (TEXTURES[scene.ground](scene.ground_seed, inner, x, y) * np.array(scene.tint, np.float32)).astype(np.float32)
    for thing in scene.things:
        paint(image, thing, inner)
    image = np.clip(image, 0, 1)
    if supersample > 1:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return (image * 255 + 0.5).astype(np.uint8)
