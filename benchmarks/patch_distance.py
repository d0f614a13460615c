"""Fréchet distance between the small patches of two sets of images: whether they have the same textures, wherever these lie."""

from __future__ import annotations

import numpy as np

SIDE = 8  # pixels of a patch
DRAWS = 500


def moments(image: np.ndarray) -> np.ndarray:
    """(SIDE², SIDE²): mean outer product of the gray patches of a uint8 RGB image, each without its mean."""
    gray = image.astype(np.float64).mean(-1)
    rows, columns = (side // SIDE * SIDE for side in gray.shape)
    patches = gray[:rows, :columns].reshape(rows // SIDE, SIDE, columns // SIDE, SIDE).swapaxes(1, 2).reshape(-1, SIDE**2)
    patches -= patches.mean(1, keepdims=True)
    return patches.T @ patches / len(patches)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root of the squared Fréchet distance, in gray levels, of two normal distributions with mean 0 and these covariances."""
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(np.sqrt(max(np.trace(one) + np.trace(other) - 2 * shared, 0)))


def distances(found: list[np.ndarray], true: list[np.ndarray]) -> np.ndarray:
    """The distance between the images `found` and `true`, then of DRAWS bootstrap draws of as many pairs."""
    one, other = (np.stack([moments(image) for image in images]) for images in (found, true))
    picks = np.random.default_rng(0).integers(0, len(one), (DRAWS, len(one)))
    return np.array([distance(one[pick].mean(0), other[pick].mean(0)) for pick in [np.arange(len(one)), *picks]])
