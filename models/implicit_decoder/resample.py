"""Parts of a resized image, without the rest."""

import math

import torch
import torch.nn.functional as F

from ...methods.regions import Region

DOUBLE = ("cpu", "cuda", "meta")  # devices with float64


def bicubic(image: torch.Tensor, size: tuple[int, int], region: Region) -> torch.Tensor:
    """The part inside `region` of F.interpolate(image, size, mode="bicubic", antialias=True).

    image (B, C, h, w), size (H, W), region in pixels of the resized image. Costs what the rows of
    the region cost; the same size returns the pixels unchanged.
    """
    first, last, weights = row_weights(image.shape[-2], size[0], region.y, region.height, image.device)
    rows = F.interpolate(image[..., first:last, :], (last - first, size[1]), mode="bicubic", antialias=True)
    return weights.to(image) @ rows[..., region.x : region.x + region.width]


def row_weights(low: int, high: int, start: int, count: int, device: torch.device | str = "cpu") -> tuple[int, int, torch.Tensor]:
    """First and one past the last of the `low` rows that `count` of the `high` rows read, and the weights
    (count, last - first): Keys' cubic, a = -1/2, widened by the factor when the image shrinks. On `device`, or on the
    CPU where that has no float64."""
    device = device if torch.device(device).type in DOUBLE else "cpu"
    step = low / high
    width = max(step, 1.0)
    first = max(math.floor((start + 0.5) * step - 2 * width), 0)
    last = min(math.ceil((start + count - 0.5) * step + 2 * width), low)
    center = (torch.arange(start, start + count, dtype=torch.float64, device=device) + 0.5) * step
    x = ((torch.arange(first, last, dtype=torch.float64, device=device) + 0.5 - center[:, None]) / width).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return first, last, weights / weights.sum(1, keepdim=True)
