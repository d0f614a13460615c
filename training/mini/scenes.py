"""The mini world's grammar: one to three colored things in a 3 x 2 grid of slots on a textured ground.

A scene is a pure function of its seed and can be rendered at any size (`render.py`), so every image has a true
high-resolution version. Seeds of 6,000,000 and above are held out: nothing is trained or tuned on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.mini.captions import Sight, caption_of, place

GROUNDS = ["grass", "sand", "brick", "wood", "water", "sky"]
SHAPES = ["ball", "box", "pyramid", "star", "heart", "flower", "house", "tree"]
COLORS = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.88),
    "yellow": (0.95, 0.84, 0.12),
    "purple": (0.56, 0.16, 0.70),
    "orange": (0.96, 0.52, 0.08),
    "white": (0.95, 0.95, 0.95),
    "cyan": (0.10, 0.80, 0.85),
}

BASE_SEED = 0
LARGE_SEED = 2_000_000
HELD_OUT_SEED = 6_000_000


@dataclass(frozen=True)
class Thing:
    """One object; `x`, `y`, `radius` as fractions of the image's side."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    angle: float
    seed: int

    @property
    def words(self) -> str:
        return f"{self.color} {self.shape} {place(self.x, self.y)}"


@dataclass(frozen=True)
class Scene:
    ground: str
    ground_seed: int
    tint: tuple[float, float, float]
    things: tuple[Thing, ...]


def sample_scene(seed: int, count: int | None = None) -> Scene:
    """The scene with this seed. `count` fixes the number of things (1..3)."""
    rng = np.random.RandomState(seed)
    ground = GROUNDS[rng.randint(len(GROUNDS))]
    count = count or int(rng.choice([1, 2, 3], p=[0.45, 0.40, 0.15]))
    columns = {1: [rng.randint(3)], 2: sorted(rng.permutation(3)[:2]), 3: [0, 1, 2]}[count]
    things, used = [], set()
    for column in columns:
        while True:
            shape, color = SHAPES[rng.randint(len(SHAPES))], list(COLORS)[rng.randint(len(COLORS))]
            if shape not in used and (ground, color) != ("grass", "green"):
                break
        used.add(shape)
        radius = rng.uniform(0.17, 0.24) if count == 1 else rng.uniform(0.145, 0.175)
        x = (0.20, 0.50, 0.80)[column] + rng.uniform(-0.03, 0.03)
        y = (0.34, 0.66)[rng.randint(2)] + rng.uniform(-0.05, 0.05)
        x, y = (min(max(v, radius + 0.01), 0.99 - radius) for v in (x, y))
        things.append(Thing(shape, color, x, y, radius, rng.uniform(-0.22, 0.22), int(rng.randint(1 << 20))))
    tint = tuple(float(v) for v in 1 + rng.uniform(-0.08, 0.08, 3))
    return Scene(ground, int(rng.randint(1 << 20)), tint, tuple(things))


def caption(scene: Scene) -> str:
    """The full caption, things from left to right: `red star top left, blue house bottom right, on grass`."""
    return ", ".join([t.words for t in scene.things] + [f"on {scene.ground}"])


def crop_sights(scene: Scene, x: float, y: float, side: float) -> list[Sight]:
    """The scene's things as the square crop at (x, y) of the given side has them, all as fractions."""
    return [Sight(t.color, t.shape, (t.x - x) / side, (t.y - y) / side, t.radius / side, t.radius / side) for t in scene.things]


def crop_caption(scene: Scene, x: float, y: float, side: float) -> str:
    """The caption of what is visible in that crop."""
    return caption_of(crop_sights(scene, x, y, side), scene.ground)


def mirrored(words: str) -> str:
    """The caption of the left-right flipped image."""
    swap = {"left": "right", "right": "left"}
    out = []
    for phrase in reversed(words.split(", ")[:-1]):
        out.append(" ".join(swap.get(w, w) for w in phrase.split()))
    return ", ".join(out + words.split(", ")[-1:])
