"""Scores of images against the mini-world scenes they should show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..methods.regions import RegionLayout
from ..models.mini import file
from ..models.mini.detector import Detection, Detector, detect
from ..training.mini.scenes import COLORS, SHAPES, Scene, place


class Adherence(NamedTuple):
    """Counts over prompted things: found with the right shape, also the right color, in the right slot; and things nobody asked for."""

    shape: int
    color: int
    slot: int
    extra: int
    prompted: int


def load_detector() -> Detector:
    net = Detector()
    net.load_state_dict({k: v.float() for k, v in file.load("detector")[0].items()})
    return net.eval()


def adherence(detections: list[Detection], scene: Scene, size: int) -> Adherence:
    """Match every prompted thing to the detection of its shape that fits best; `size` is the image's side in pixels."""
    left, shape, color, slot = list(detections), 0, 0, 0
    colors = list(COLORS)
    for thing in scene.things:
        candidates = [d for d in left if SHAPES[d.shape] == thing.shape]
        if not candidates:
            continue
        best = min(candidates, key=lambda d: (colors[d.color] != thing.color, abs(d.x / size - thing.x) + abs(d.y / size - thing.y)))
        left.remove(best)
        shape += 1
        color += colors[best.color] == thing.color
        slot += place(best.x / size, best.y / size) == place(thing.x, thing.y)
    return Adherence(shape, color, slot, len(left), len(scene.things))


@torch.no_grad()
def score_images(net: Detector, images: list[np.ndarray], scenes: list[Scene]) -> dict[str, float]:
    """Shares of prompted things (shape, color, slot) and extra things an image, over uint8 RGB images."""
    totals = np.zeros(5)
    for image, scene in zip(images, scenes):
        size = image.shape[0]
        levels = tuple(2 ** i for i in range(1 + int(np.log2(size / 128))))
        totals += adherence(detect(net, image, levels), scene, size)
    shape, color, slot, extra, prompted = totals
    return {"shape": shape / prompted, "color": color / prompted, "slot": slot / prompted, "extra": extra / len(images)}


def sharpness(image: np.ndarray) -> float:
    """Mean absolute Laplacian of an image (H, W, 3) in 8-bit levels."""
    return float(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)).mean())


def sharpness_ratio(ratios: Sequence[float]) -> tuple[float, float]:
    """Geometric mean of sharpnesses as shares of what they should be, and the mean miss, |log2|: too much is a fault as well."""
    logs = np.log2(ratios)
    return float(2 ** logs.mean()), float(np.abs(logs).mean())


def outer_border(image: np.ndarray, outer: int = 8, inner: tuple[int, int] = (16, 48)) -> float:
    """Saturation of the outer pixels of an image (H, W, 3, uint8) over that of the frame `inner` pixels in."""
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].astype(float)
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in image.shape[:2])
    distance = np.minimum(rows[:, None], columns)
    frame = (distance >= inner[0]) & (distance < inner[1])
    return float(saturation[distance < outer].mean() / max(saturation[frame].mean(), 1e-6))


def detail(image: np.ndarray) -> float:
    """Mean energy of what a Gaussian blur of 1.5 pixels takes away from an image (H, W, 3) in [0, 1]."""
    return float(np.square(image - cv2.GaussianBlur(image, (0, 0), 1.5)).mean())


def seam(image: np.ndarray, layout: RegionLayout, pixels_per_cell: int) -> float:
    """Mean absolute step across the vertical lines where regions begin or end, relative to all lines."""
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean((0, 2))
    lines = sorted({edge * pixels_per_cell - 1 for region in layout.regions for edge in (region.x, region.x + region.width)} - {-1, len(steps)})
    return float(steps[lines].mean() / steps.mean())


def gradient_error(images: torch.Tensor, true: torch.Tensor) -> float:
    """Mean absolute difference of the gradients, as a share of the true images' gradients."""
    return sum(((images.diff(dim=d) - true.diff(dim=d)).abs().mean() / true.diff(dim=d).abs().mean()).item() for d in (-1, -2)) / 2


def psnr_of_arrays(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two uint8 images."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over the batch of the PSNR in dB, for values in [-1, 1]."""
    mse = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().flatten(1).mean(1)
    return (10 * torch.log10(4 / mse)).mean().item()


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al., 2004) of (B, C, H, W) images in [-1, 1], at least 11 px wide, for each image (B,).

    Gaussian window of 11 px, deviation 1.5 px; mean over channels and the positions where the window fits.
    """
    x = torch.arange(11, dtype=torch.float64) - 5
    kernel = torch.exp(-x.square() / 4.5)
    kernel = (kernel / kernel.sum()).to(a)
    a, b = ((v.clamp(-1, 1) + 1) / 2 for v in (a, b))

    def mean(v: torch.Tensor) -> torch.Tensor:
        planes = v.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(planes, kernel.view(1, 1, 11, 1)), kernel.view(1, 1, 1, 11)).view(*v.shape[:2], v.shape[2] - 10, v.shape[3] - 10)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b, covariance = mean(a * a) - mean_a ** 2, mean(b * b) - mean_b ** 2, mean(a * b) - mean_a * mean_b
    values = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4) / ((mean_a ** 2 + mean_b ** 2 + 1e-4) * (variance_a + variance_b + 9e-4))
    return values.flatten(1).mean(1)


def self_ssim(images: dict[int, torch.Tensor]) -> dict[tuple[int, int], float]:
    """Scale consistency (Kim & Kim, CVPR 2024): SSIM of one scene's images at two sizes, the larger one reduced (antialiased bicubic).

    images: side -> (B, C, side, side) in [-1, 1], of the same scenes. Returns the mean over scenes by pair of sides.
    """
    sides = sorted(images)
    pairs = [(low, high) for i, low in enumerate(sides) for high in sides[i + 1:]]
    return {(low, high): ssim(images[low], F.interpolate(images[high], (low, low), mode="bicubic", antialias=True)).mean().item() for low, high in pairs}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the means of bootstrap samples."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return tuple(np.quantile(draws.mean(1), (0.025, 0.975)))


def shown(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Mean and interval, as tables have them. sign: "+" writes it before positive numbers too."""
    low, high = interval(values)
    return f"{np.mean(values):{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def shown_ratio(ratios: Sequence[float]) -> str:
    """Geometric mean and interval of shares of what should be, as tables have them."""
    logs = np.log2(ratios)
    return "{:.2f} [{:.2f}, {:.2f}]".format(*2 ** np.array([logs.mean(), *interval(logs)]))
