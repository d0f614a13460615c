"""Low-quality images as Real-ESRGAN makes them (Wang et al., ICCVW 2021): blur, resize, noise and JPEG, twice over.

Order and probabilities are those of its x4 training. Ranges that depend on how large things are in an image can be
softened for small images by `strength`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from torch import from_numpy, special

KERNELS = ("gaussian", "generalized", "plateau")
INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Stage:
    """One round. Sigmas of blur in pixels, noise in 8-bit levels; `resize` are shares of (enlarge, shrink, keep)."""

    blur_share: float
    sinc_share: float
    sigma: tuple[float, float]
    resize: tuple[float, float, float]
    resize_range: tuple[float, float]
    noise: tuple[float, float]
    poisson: tuple[float, float]
    jpeg: tuple[float, float] = (30, 95)
    gray_share: float = 0.4
    gaussian_share: float = 0.5


FIRST = Stage(1.0, 0.1, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Stage(0.8, 0.1, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))
FINAL_SINC_SHARE = 0.8


def degrade(image: np.ndarray, rng: np.random.RandomState, scale: float = 4, strength: float = 1.0) -> np.ndarray:
    """uint8 RGB (H, W, 3) to a low-quality one of the sides divided by `scale`.

    strength 1 is Real-ESRGAN. Below, blur, noise, resizing and JPEG loss shrink in proportion: 0 leaves the resize
    to the target size and the light end of each range. The result depends on `rng`'s state alone.
    """
    height, width = image.shape[:2]
    target = max(1, round(width / scale)), max(1, round(height / scale))
    x = image.astype(np.float32) / 255
    x = _noisy(_resized(_blurred(x, FIRST, rng, strength), FIRST, rng, strength), FIRST, rng, strength)
    x = jpeg(x, _quality(FIRST, rng, strength))
    x = _blurred(x, SECOND, rng, strength)
    factor = _factor(SECOND, rng, strength) / scale
    x = cv2.resize(x, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=_interpolation(rng))
    x = _noisy(x, SECOND, rng, strength)
    quality, ringing = _quality(SECOND, rng, strength), rng.rand() < FINAL_SINC_SHARE
    kernel = sinc_kernel(_side(rng), rng.uniform(np.pi / 3, np.pi)) if ringing else None
    last = _interpolation(rng)
    if rng.rand() < 0.5:
        x = jpeg(_filtered(cv2.resize(x, target, interpolation=last), kernel), quality)
    else:
        x = _filtered(cv2.resize(jpeg(x, quality), target, interpolation=last), kernel)
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def gaussian_kernel(side: int, sigma: tuple[float, float], angle: float = 0.0, kind: str = "gaussian", beta: float = 1.0) -> np.ndarray:
    """(side, side) float32 blur kernel of sum 1 with the two `sigma` along axes turned by `angle`.

    With q the squared Mahalanobis distance: gaussian exp(-q/2), generalized exp(-q^beta/2), plateau 1 / (1 + q^beta).
    """
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s], [s, c]])
    inverse = rotation @ np.diag([1 / sigma[0] ** 2, 1 / sigma[1] ** 2]) @ rotation.T
    offset = np.arange(side) - side // 2
    grid = np.stack(np.meshgrid(offset, offset), -1)
    q = np.einsum("...i,ij,...j", grid, inverse, grid)
    if kind == "gaussian":
        kernel = np.exp(-q / 2)
    elif kind == "generalized":
        kernel = np.exp(-(q**beta) / 2)
    else:
        kernel = 1 / (1 + q**beta)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(side: int, cutoff: float) -> np.ndarray:
    """(side, side) float32 circular low-pass kernel of sum 1, cutoff in radians a pixel (pi lets nearly all pass)."""
    offset = np.arange(side) - side // 2
    r = np.hypot(*np.meshgrid(offset, offset))
    bessel = special.bessel_j1(from_numpy(cutoff * r)).numpy()
    kernel = np.divide(cutoff * bessel, 2 * np.pi * r, out=np.full_like(r, cutoff**2 / (4 * np.pi)), where=r > 0)
    return (kernel / kernel.sum()).astype(np.float32)


def jpeg(x: np.ndarray, quality: float) -> np.ndarray:
    """Float RGB in [0, 1] through a JPEG file of `quality` 1..100."""
    encoded = cv2.imencode(".jpg", (x[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def _side(rng):
    return 7 + 2 * rng.randint(8)


def _interpolation(rng):
    return INTERPOLATIONS[rng.randint(3)]


def _filtered(x, kernel):
    return x if kernel is None else cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _upto(bounds, rng, strength):
    low, high = bounds
    return rng.uniform(low, low + (high - low) * strength)


def _quality(stage, rng, strength):
    low, high = stage.jpeg
    return rng.uniform(high - (high - low) * strength, high)


def _blurred(x, stage, rng, strength):
    if rng.rand() >= stage.blur_share:
        return x
    side = _side(rng)
    if rng.rand() < stage.sinc_share:
        return _filtered(x, sinc_kernel(side, rng.uniform(np.pi / 3 if side < 13 else np.pi / 5, np.pi)))
    kind = rng.choice(KERNELS, p=[0.7, 0.15, 0.15])
    sigma = _upto(stage.sigma, rng, strength)
    # each kind is isotropic at these shares
    if rng.rand() < {"gaussian": 0.45 / 0.7, "generalized": 0.8, "plateau": 0.8}[kind]:
        sigma, angle = (sigma, sigma), 0.0
    else:
        sigma, angle = (sigma, _upto(stage.sigma, rng, strength)), rng.uniform(-np.pi, np.pi)
    low, high = (0.5, 4) if kind == "generalized" else (1, 2)
    beta = rng.uniform(low, 1) if rng.rand() < 0.5 else rng.uniform(1, high)
    return _filtered(x, gaussian_kernel(side, sigma, angle, kind, beta))


def _factor(stage, rng, strength):
    low, high = stage.resize_range
    way = rng.choice(3, p=stage.resize)
    return (rng.uniform(1, 1 + (high - 1) * strength), rng.uniform(1 - (1 - low) * strength, 1), 1.0)[way]


def _resized(x, stage, rng, strength):
    factor = _factor(stage, rng, strength)
    size = max(1, round(x.shape[1] * factor)), max(1, round(x.shape[0] * factor))
    return cv2.resize(x, size, interpolation=_interpolation(rng))


def _noisy(x, stage, rng, strength):
    shape = x.shape[:2] + ((1,) if rng.rand() < stage.gray_share else (3,))
    if rng.rand() < stage.gaussian_share:
        return (x + rng.randn(*shape).astype(np.float32) * (_upto(stage.noise, rng, strength) / 255)).clip(0, 1)
    x = x.clip(0, 1)
    light = x if shape[2] == 3 else (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    levels = 2.0 ** np.ceil(np.log2(len(np.unique((light * 255).round()))))
    noise = rng.poisson(light * levels) / levels - light
    return (x + noise.astype(np.float32) * _upto(stage.poisson, rng, strength)).clip(0, 1)
