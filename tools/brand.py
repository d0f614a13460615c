"""Draws assets/icon.png and assets/banner.png: coarse pixels, and what a loupe shows of them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FINE = 2  # drawn at twice the size


def scenery(x, y):
    """Colors (…, 3) in 0..1 of hills under an evening sky; x to the right, y down, in heights of the image."""
    sky = np.stack([0.96 - 0.55 * (1 - y), 0.52 - 0.20 * (1 - y), 0.42 + 0.25 * (1 - y)], -1)
    image = np.where((np.hypot(x - 0.62, y - 0.40) < 0.13)[..., None], (1.0, 0.90, 0.62), sky)
    for depth, (height, color) in enumerate([(0.52, (0.52, 0.33, 0.52)), (0.64, (0.30, 0.24, 0.44)), (0.78, (0.13, 0.14, 0.30))]):
        ridge = height + 0.05 * np.sin(5 * x + 2.3 * depth) + 0.022 * np.sin(17 * x + depth) + 0.006 * np.sin(61 * x)
        image = np.where((y > ridge)[..., None], color, image)
    return image


def magnified(width, height, cell, lens, radius):
    """The scenery in cells of `cell` pixels, and fine inside the lens at `lens` (pixels)."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    coarse = scenery((x // cell + 0.5) * cell / height, (y // cell + 0.5) * cell / height)
    inside = (np.hypot(x - lens[0], y - lens[1]) < radius)[..., None]
    image = Image.fromarray((np.where(inside, scenery(x / height, y / height), coarse) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    ring = radius // 8
    ends = [lens + (radius + length) * np.array((0.7071, 0.7071)) for length in (0, radius * 0.95)]
    draw.line([tuple(end) for end in ends], "white", int(ring * 1.9))
    for end in ends:
        draw.circle(tuple(end), ring * 0.93, "white")
    draw.circle(lens, radius + ring / 2, outline="white", width=ring)
    return image


def main():
    ASSETS.mkdir(exist_ok=True)
    side = 400 * FINE
    icon = magnified(side, side, side // 10, (0.44 * side, 0.42 * side), side * 3 // 10)
    icon.resize((400, 400), Image.Resampling.LANCZOS).save(ASSETS / "icon.png", optimize=True)

    width, height = 1260 * FINE, 540 * FINE
    banner = magnified(width, height, height // 12, (0.30 * width, 0.42 * height), height * 3 // 10)
    draw = ImageDraw.Draw(banner)
    for text, size, line in (("Loupe", 0.24, 0.40), ("1K images to 2K, 4K, 8K", 0.062, 0.60)):
        draw.text((0.55 * width, line * height), text, "white", ImageFont.load_default(size * height), anchor="lm")
    banner.resize((1260, 540), Image.Resampling.LANCZOS).save(ASSETS / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
