"""Band-limited ground textures of the mini world: the finest octaves appear only in renders large enough to hold them."""

from __future__ import annotations

import cv2
import numpy as np

OCTAVES = [3, 6, 12, 24, 48, 96, 192, 384]


def color(*channels: float) -> np.ndarray:
    return np.array(channels, np.float32)


def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers in [0, 1] as (x, y) maps of (size, size)."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(centers, centers)


def coverage(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Antialiased coverage from a signed distance (negative inside)."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def mix(a, b, weight: np.ndarray) -> np.ndarray:
    return a + (b - a) * weight[..., None]


def lattice_noise(seed: int, frequency_x: int, frequency_y: int, size: int) -> np.ndarray | None:
    """Smooth unit-variance noise of so many cells per image side; None where `size` cannot resolve it."""
    fade = float(np.clip(2.2 - max(frequency_x, frequency_y) * 2.6 / size, 0, 1))
    if fade <= 0:
        return None
    values = np.random.RandomState(seed).randn(frequency_y + 4, frequency_x + 4).astype(np.float32)
    matrix = np.array([
        [frequency_x / size, 0, 1 + 0.5 * frequency_x / size],
        [0, frequency_y / size, 1 + 0.5 * frequency_y / size],
    ], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return fade * cv2.warpAffine(values, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)


def octaves(seed: int, size: int, frequencies, amplitudes, stretch_x: float = 1.0, stretch_y: float = 1.0) -> np.ndarray:
    total = np.zeros((size, size), np.float32)
    for i, (frequency, amplitude) in enumerate(zip(frequencies, amplitudes)):
        noise = lattice_noise(seed * 131 + i, max(1, int(frequency * stretch_x)), max(1, int(frequency * stretch_y)), size)
        if noise is not None:
            total += amplitude * noise
    return total


def sky(seed, size, x, y):
    clouds = octaves(seed, size, OCTAVES, [0.5, 0.35, 0.2, 0.1, 0.06, 0.04, 0.03, 0.02], 0.6, 1.2)
    base = mix(color(0.30, 0.52, 0.86), color(0.72, 0.85, 0.96), y)
    return mix(base, color(0.97, 0.97, 0.98), np.clip(clouds * 1.1 - 0.15, 0, 1))


def grass(seed, size, x, y):
    blades = octaves(seed, size, OCTAVES, [0.3, 0.25, 0.2, 0.2, 0.22, 0.3, 0.3, 0.25], 1.6, 0.5)
    return mix(color(0.16, 0.40, 0.10), color(0.48, 0.70, 0.22), np.clip(0.45 + 0.30 * blades, 0, 1))


def sand(seed, size, x, y):
    grain = octaves(seed, size, OCTAVES, [0.3, 0.3, 0.2, 0.15, 0.18, 0.22, 0.28, 0.28])
    bend = octaves(seed + 7, size, [2, 4, 8], [1, 0.6, 0.3])
    ripples = np.sin((y * 14 + 0.35 * bend) * 2 * np.pi)
    return mix(color(0.70, 0.56, 0.36), color(0.93, 0.83, 0.62), np.clip(0.5 + 0.14 * ripples + 0.2 * grain, 0, 1))


def wood(seed, size, x, y):
    planks = 4
    plank = np.floor(y * planks)
    shift = np.sin(plank * 12.9 + seed) * 3
    bend = octaves(seed, size, [2, 4], [0.6, 0.3], 0.4, 1)
    rings = np.sin((y * 9 + bend * 0.8 + shift + 0.5 * np.sin(x * 3 + shift)) * 2 * np.pi)
    fibres = octaves(seed + 3, size, OCTAVES[2:], [0.2, 0.28, 0.28, 0.28, 0.28, 0.25], 0.12, 1.3)
    tone = np.clip(0.5 + 0.22 * rings + 0.22 * fibres + 0.12 * np.sin(plank * 7.1 + seed), 0, 1)
    image = mix(color(0.36, 0.20, 0.09), color(0.72, 0.48, 0.26), tone)
    gap = np.abs(y * planks - np.round(y * planks)) / planks - 0.004
    return mix(image, color(0.16, 0.08, 0.03), coverage(gap, 1 / size) * 0.8)


def brick(seed, size, x, y):
    columns, rows = 5, 10
    row = np.floor(y * rows)
    shifted = x * columns + 0.5 * (row % 2)
    joint_x = np.abs(shifted - np.round(shifted)) / columns
    joint_y = np.abs(y * rows - np.round(y * rows)) / rows
    which = (np.floor(shifted) + row * 31).astype(int) % 97
    tone = np.random.RandomState(seed).rand(97).astype(np.float32)[which]
    grain = octaves(seed, size, OCTAVES[2:], [0.2, 0.22, 0.25, 0.25, 0.25, 0.25])
    image = mix(color(0.45, 0.20, 0.15), color(0.70, 0.36, 0.26), np.clip(0.15 + 0.6 * tone + 0.22 * grain, 0, 1))
    return mix(image, color(0.74, 0.72, 0.68), coverage(np.minimum(joint_x, joint_y) - 0.008, 1 / size))


def water(seed, size, x, y):
    waves = octaves(seed, size, OCTAVES, [0.4, 0.4, 0.4, 0.32, 0.25, 0.2, 0.15, 0.12], 0.35, 1.5)
    image = mix(color(0.05, 0.24, 0.42), color(0.22, 0.56, 0.72), np.clip(0.45 + 0.32 * waves, 0, 1))
    return mix(image, color(0.88, 0.95, 0.98), np.clip((waves - 1.0) * 1.6, 0, 1))


TEXTURES = {"grass": grass, "sand": sand, "brick": brick, "wood": wood, "water": water, "sky": sky}
