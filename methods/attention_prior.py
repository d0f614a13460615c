"""C-Upscale's regional attention prior (RAP; Qian et al., IJCV 2025).

The paper interpolates the cross-attention maps of the low-resolution image to the canvas, crops a
region's window and applies it to the values. Interpolation acts on the image's positions and the
values belong to the prompt, so it is exact, and far smaller, to interpolate the attended values; as
its weights sum to 1, also after the output projection.
"""

import torch


def bilinear_weights(centers: torch.Tensor, length: int) -> torch.Tensor:
    """Weights (..., length) that read positions `centers` (...) of an axis of `length` samples.

    Centers are fractions of the axis (sample i lies at (i + 1/2) / length); outside of the outer
    samples the border repeats. Rows sum to 1. Equals bilinear interpolation, align_corners=False.
    """
    position = (centers * length - 0.5).clamp(0, length - 1)
    samples = torch.arange(length, device=centers.device, dtype=centers.dtype)
    return (1 - (position[..., None] - samples).abs()).clamp(min=0)


def token_centers(offset: float, step: float, cells: int, tokens: int, canvas: int) -> torch.Tensor:
    """Centers (tokens,), as fractions of a canvas axis of `canvas` cells, of the tokens that a view's
    `cells` cells offset, offset + step, ... are divided into. float64."""
    cell = (torch.arange(tokens, dtype=torch.float64) + 0.5) * cells / tokens - 0.5
    return (offset + cell * step + 0.5) / canvas


def attended_region(values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Attended values of the whole image read at the tokens of regions.

    values: (B, h, w, C). rows (N, i, h) and columns (N, j, w): `bilinear_weights` of the regions'
    tokens. Returns (N * B, i * j, C), region-major.
    """
    regions = torch.einsum("nih,bhwc,njw->nbijc", rows, values, columns)
    return regions.flatten(2, 3).flatten(0, 1)


def compose(regional: torch.Tensor, prior: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """(1 - weight) regional + weight prior; the paper's mean of both prompts is weight 0.5."""
    return torch.lerp(regional, prior, weight)
