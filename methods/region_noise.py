"""Region-wise noise addition of LSRNA (Jeong et al., CVPR 2025): more noise where the image has edges."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .schedules import sd_ratio

PAPERS_RATIO = sd_ratio(581)  # rho that the papers' runs start from, the last 30 of 50 steps


def edges(image: torch.Tensor, low: float = 0, high: float = 255) -> torch.Tensor:
    """OpenCV's Canny edges of an image (h, w, 3), RGB, 0..1, as (h, w) float32 of 0 and 255.

    low, high: hysteresis thresholds on the L1 gradient of the 8-bit gray image.
    """
    rgb = image.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()
    gray = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return torch.from_numpy(cv2.Canny(gray, low, high)).float()


def start_factor(ratio: float, papers: float = PAPERS_RATIO) -> float:
    """Factor of the papers' e for a denoise that starts at rho = `ratio`, so that the region-wise noise keeps its share
    of all noise there. Starts from more noise keep the papers' e: what is added stays in the guide down to their start."""
    return 1.0 if ratio > papers * (1 - 1e-5) else ratio / papers


def check_strengths(e_min: float, e_max: float) -> None:
    """Raises ValueError for e_min > e_max or a negative e_min."""
    if not 0 <= e_min <= e_max:
        raise ValueError(
            f"noise_flat is {e_min} and noise_edges {e_max}; expected 0 <= noise_flat <= noise_edges. Lower noise_flat or raise noise_edges."
        )


def strength_map(edge_map: torch.Tensor, size: tuple[int, int], e_min: float, e_max: float) -> torch.Tensor:
    """Standard deviation of the noise for each latent cell, (H, W), from e_min to e_max.

    edge_map: (h, w), averaged over the image's share of each cell and stretched from its minimum to
    its maximum. An image without edges gives e_min everywhere. Raises ValueError as `check_strengths` does.
    """
    check_strengths(e_min, e_max)
    pooled = F.adaptive_avg_pool2d(edge_map[None, None], size)[0, 0]
    low, high = pooled.aminmax()
    if low == high:
        return torch.full_like(pooled, e_min)
    return (pooled - low) / (high - low) * (e_max - e_min) + e_min
