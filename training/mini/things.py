"""The mini world's eight shapes as signed distances, with details that only large renders resolve.

Every painter gets a `Canvas`: the pixels under the thing, upright coordinates (u, v) and rotated ones (a, b), all in
units of the thing's radius with v and b pointing down.
"""

from __future__ import annotations

import math

import numpy as np

from .scenes import COLORS, Thing
from .textures import color, coverage, mix, octaves, pixel_grid


def polygon(x: np.ndarray, y: np.ndarray, points) -> np.ndarray:
    """Signed distance to a closed polygon (even-odd inside is negative)."""
    distance = np.full(x.shape, 1e9, np.float32)
    sign = np.ones_like(x)
    for i, (ax, ay) in enumerate(points):
        bx, by = points[i - 1]
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        sign = np.where((above & below & left) | (~above & ~below & ~left), -sign, sign)
    return sign * np.sqrt(distance)


def lines(values: np.ndarray, per_unit: float, half_width: float) -> np.ndarray:
    """Signed distance to evenly spaced lines."""
    scaled = values * per_unit
    return np.abs(scaled - np.round(scaled)) / per_unit - half_width


def dots(a: np.ndarray, b: np.ndarray, per_unit: float, radius: float) -> np.ndarray:
    return np.hypot((a * per_unit) % 1 - 0.5, (b * per_unit) % 1 - 0.5) / per_unit - radius


class Canvas:
    """The part of an image under one thing, and the brushes."""

    def __init__(self, pixels: np.ndarray, window, thing: Thing, size: int):
        y0, y1, x0, x1 = window
        x, y = (g[y0:y1, x0:x1] for g in pixel_grid(size))
        self.pixels = pixels
        self.pixel = 1 / (size * thing.radius)
        self.u, self.v = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
        c, s = math.cos(thing.angle), math.sin(thing.angle)
        self.a, self.b = self.u * c + self.v * s, -self.u * s + self.v * c
        self.fine = octaves(thing.seed, size, [48, 96, 192, 384], [0.4, 0.4, 0.4, 0.4])[y0:y1, x0:x1]
        self.leaves = octaves(thing.seed + 5, size, [24, 48, 96, 192, 384], [0.3, 0.4, 0.4, 0.35, 0.3])[y0:y1, x0:x1]
        self.main = np.array(COLORS[thing.color], np.float32)
        self.dark = self.main * 0.45
        self.light = self.main + (1 - self.main) * 0.55

    def fill(self, distance, paint, strength=1.0):
        self.pixels = mix(self.pixels, paint, coverage(distance, self.pixel) * strength)

    def body(self, distance, paint, grain=0.05):
        self.fill(distance, paint * (1 + grain * self.fine[..., None]))

    def outline(self, distance, width=0.05):
        self.fill(np.abs(distance) - width, self.dark * 0.5)


def ball(k: Canvas):
    rim = np.hypot(k.a, k.b) - 0.95
    shade = np.clip(0.75 + 0.5 * (-k.u * 0.5 - k.v * 0.6), 0.35, 1.2)[..., None]
    sector = np.abs((np.arctan2(k.b, k.a + 0.15) / math.pi * 3) % 1 - 0.5) - 0.12
    paint = mix(k.main * shade, k.light * shade, coverage(sector * np.hypot(k.a, k.b), k.pixel))
    k.body(rim, paint, 0.04)
    k.outline(rim)
    shine = np.hypot(k.u + 0.38, k.v + 0.42) - 0.14
    k.pixels = mix(k.pixels, color(1, 1, 1), coverage(shine, 0.12) * 0.8)


def box(k: Canvas):
    rim = np.maximum(np.abs(k.a), np.abs(k.b)) - 0.80
    k.body(rim, k.main, 0.06)
    k.fill(np.maximum(lines(k.a, 2.5, 0.018), rim), k.dark)
    k.fill(np.maximum(np.abs(rim + 0.12) - 0.015, rim), k.dark)
    k.fill(np.maximum(np.abs(k.a - k.b) * 0.7 - 0.09, rim + 0.13), k.light)
    k.outline(rim)


def pyramid(k: Canvas):
    rim = polygon(k.a, k.b, [(0, -0.95), (0.95, 0.80), (-0.95, 0.80)])
    k.body(rim, k.main, 0.06)
    k.fill(np.maximum(polygon(k.a, k.b, [(0, -0.95), (0.95, 0.80), (0.25, 0.80)]), rim), k.dark * 1.2)
    k.fill(np.maximum(lines(k.b, 5, 0.014), rim), k.dark * 0.8, 0.8)
    k.outline(rim)


def star(k: Canvas):
    points = [((1.0, 0.42)[i % 2] * math.sin(i * math.pi / 5), -(1.0, 0.42)[i % 2] * math.cos(i * math.pi / 5)) for i in range(10)]
    rim = polygon(k.a, k.b, points)
    k.body(rim, k.main)
    k.fill(polygon(k.a / 0.55, k.b / 0.55, points) * 0.55, k.light)
    k.outline(rim)
    k.fill(np.maximum(dots(k.a, k.b, 7, 0.022), rim + 0.1), k.dark)


def heart(k: Canvas):
    p, q = np.abs(k.a) * 0.62, -k.b * 0.62 + 0.42
    lobe = np.hypot(p - 0.25, q - 0.75) - math.sqrt(2) / 4
    edge = 0.5 * np.maximum(p + q, 0)
    tip = np.sqrt(np.minimum(p**2 + (q - 1) ** 2, (p - edge) ** 2 + (q - edge) ** 2)) * np.sign(p - q)
    rim = np.where(p + q > 1, lobe, tip) / 0.62
    k.body(rim, k.main)
    k.fill(np.maximum(np.abs(rim + 0.25) - 0.03, rim), k.light)
    k.outline(rim)
    hatch = np.abs(((k.a + k.b) * 6) % 1 - 0.5) / 6 / 1.41 - 0.014
    k.fill(np.maximum(hatch, rim + 0.32), k.dark, 0.8)


def flower(k: Canvas):
    turn, reach = np.arctan2(k.a, -k.b), np.hypot(k.a, k.b)
    k.fill(np.maximum(np.abs(k.u) - 0.06, np.maximum(-k.v, k.v - 1.15)), color(0.1, 0.42, 0.12))
    rim = (reach - (0.62 + 0.30 * np.cos(6 * turn))) * 0.7
    k.body(rim, k.main)
    vein = np.abs((turn / (2 * math.pi) * 6 + 0.5) % 1 - 0.5) * reach - 0.012
    k.fill(np.maximum(vein, rim + 0.06), k.dark, 0.9)
    k.outline(rim, 0.04)
    yellowish = k.main[0] > 0.9 and k.main[1] > 0.5
    k.body(reach - 0.27, color(0.45, 0.25, 0.1) if yellowish else color(0.98, 0.86, 0.25))
    k.outline(reach - 0.27, 0.03)
    k.fill(np.maximum(dots(k.a, k.b, 9, 0.018), reach - 0.24), color(0.35, 0.18, 0.05))


def house(k: Canvas):
    u, v = k.u, k.v
    wall = np.maximum(np.abs(u) - 0.75, np.maximum(-v - 0.1, v - 0.9))
    k.body(wall, k.light)
    k.fill(np.maximum(lines(v, 7, 0.012), wall), k.light * 0.6, 0.7)
    k.outline(wall, 0.04)
    k.fill(np.maximum(np.abs(u + 0.28) - 0.17, np.maximum(-v + 0.3, v - 0.9)), k.dark)
    k.fill(np.hypot(u + 0.18, v - 0.62) - 0.03, color(0.95, 0.85, 0.2))
    window = np.maximum(np.abs(u - 0.32), np.abs(v - 0.36)) - 0.19
    k.fill(window, color(0.55, 0.80, 0.95))
    k.outline(window, 0.03)
    k.fill(np.maximum(np.minimum(np.abs(u - 0.32), np.abs(v - 0.36)) - 0.02, window), k.dark * 0.5)
    roof = polygon(u, v, [(0, -0.95), (0.98, -0.05), (-0.98, -0.05)])
    k.body(roof, k.main, 0.06)
    row = np.floor(v * 8)
    tiles = np.minimum(lines(v, 8, 0), lines(u + (row % 2) / 12, 6, 0)) - 0.012
    k.fill(np.maximum(tiles, roof), k.dark, 0.8)
    k.outline(roof, 0.04)


def tree(k: Canvas):
    u, v = k.u, k.v
    trunk = np.maximum(np.abs(u) - 0.13, np.maximum(-v, v - 1.05))
    k.body(trunk, color(0.36, 0.22, 0.10), 0.15)
    k.outline(trunk, 0.03)
    crown = np.minimum(np.hypot(u, v + 0.45) - 0.5, np.minimum(np.hypot(u + 0.42, v + 0.02), np.hypot(u - 0.42, v + 0.02)) - 0.42)
    k.fill(crown, mix(k.main * 0.7, k.light * 0.85 + 0.15 * k.main, np.clip(0.4 + 0.3 * k.leaves, 0, 1)))
    k.outline(crown)
    for x, y in ((-0.3, 0.05), (0.05, -0.5), (0.38, -0.02)):
        k.fill(np.hypot(u - x, v - y) - 0.075, k.dark)


PAINTERS = {"ball": ball, "box": box, "pyramid": pyramid, "star": star, "heart": heart, "flower": flower, "house": house, "tree": tree}


def paint(image: np.ndarray, thing: Thing, size: int) -> None:
    """Draw one thing with its soft shadow into the float RGB image, in place."""
    x0, x1 = max(0, int((thing.x - 1.35 * thing.radius) * size)), min(size, int((thing.x + 1.35 * thing.radius) * size) + 1)
    y0, y1 = max(0, int((thing.y - 1.35 * thing.radius) * size)), min(size, int((thing.y + 1.5 * thing.radius) * size) + 1)
    k = Canvas(image[y0:y1, x0:x1], (y0, y1, x0, x1), thing, size)
    shadow = np.clip(1 - np.hypot(k.u * 0.9, (k.v - 1.02) * 4), 0, 1)
    k.pixels = k.pixels * (1 - 0.45 * shadow[..., None])
    PAINTERS[thing.shape](k)
    image[y0:y1, x0:x1] = k.pixels
