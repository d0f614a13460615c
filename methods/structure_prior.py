"""C-Upscale's global structure prior (GSP; Qian et al., IJCV 2025), and what other methods pull the coarse part of an
image by: I-Max (Du et al., 2024; arXiv 2410.07536), ScaleDiff (arXiv 2510.25818), the filter of HiFlow (arXiv 2504.06232).

Each step pulls the low wavelet band of the predicted clean latent towards that of the low-resolution
image: z <- z - weight s(t) dL/dz, L = sum of squares of LL(x0) - LL(reference), with the network's
output held constant. The gradient is written out: LL and the resizing are linear.

With the output held constant the step moves x0 by another amount for each parameterisation, while the network's true
derivative does not depend on it. The paper's networks predict noise, so what the step does there is what it does here
for all: x0 moves by -kappa(t) low(x0 - reference), and the noise stays.

Latents are scaled, (B, C, ..., H, W); everything works on the last two dimensions.
"""

import math

import torch
import torch.nn.functional as F

from .resize import area_resize, averages
from .schedules import cosine_factor
from .wavelets import low_pass_taps

SCHEDULES = ("cosine", "linear", "increasing")
RUN_SCHEDULES = ("cosine over the run", "variance over the run")
BANDS = ("wavelet", "resize", "butterworth")
RESIZE = 8  # cells to one of the small image, as ScaleDiff has it for SDXL
CUTOFF, ORDER = 0.2, 4  # of HiFlow's Butterworth filter, the cutoff as a share of the highest frequency


def schedule_weight(t: float, schedule: str = "cosine") -> float:
    """s(t) at timestep t of the model's 1000; "cosine" and "linear" fall to 0, "increasing" rises to 1,
    "constant" stays at it."""
    if schedule in ("cosine", "constant"):
        return cosine_factor(t) if schedule == "cosine" else 1.0
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; use one of {', '.join(SCHEDULES)}.")
    return t / 1000 if schedule == "linear" else 1 - t / 1000


def run_weight(schedule: str, step: int, steps: int, ratio: float, first_ratio: float) -> float:
    """s of a schedule over the steps of one run, from 1 at its first: I-Max's cosine of the step's number, or ScaleDiff's
    share of the noise in the variance, over that of the first level. ratio: rho of the step's level."""
    if schedule == RUN_SCHEDULES[0]:
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    variance, first = (1 / (1 + value**-2) if value else 0.0 for value in (ratio, first_ratio))
    return variance / first if first else 0.0


def low_pass(x: torch.Tensor, band: str) -> torch.Tensor:
    """The coarse part of `x` as an image of its size: through one an eighth as large, or a Butterworth filter."""
    height, width = x.shape[-2:]
    if band == "resize":
        small = area_resize(x, *(max(side // RESIZE, 1) for side in (height, width)))
        return F.interpolate(small.reshape(-1, 1, *small.shape[-2:]), (height, width), mode="bicubic").reshape(x.shape)
    # mirrored, so that opposite borders do not meet
    mirrored = torch.cat([x, x.flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], -2)
    rows, columns = (2 * frequencies(2 * side, device=x.device) for side, frequencies in ((height, torch.fft.fftfreq), (width, torch.fft.rfftfreq)))
    squares = (rows[:, None] ** 2 + columns**2) / CUTOFF**2
    return torch.fft.irfft2(torch.fft.rfft2(mirrored) / (1 + squares**ORDER), s=mirrored.shape[-2:])[..., :height, :width]


def low_band(x: torch.Tensor, wavelet: str = "haar", wavelet_levels: int = 1) -> torch.Tensor:
    """LL band after `wavelet_levels` wavelet transforms, orthonormal for an orthogonal wavelet (PyWavelets'
    dwt2 in mode "symmetric"). Returns (..., h, w), h = (H + filter length - 1) // 2 a level."""
    planes = x.reshape(-1, 1, *x.shape[-2:])
    for _ in range(wavelet_levels):
        planes = _analyze(planes, wavelet)
    return planes.reshape(*x.shape[:-2], *planes.shape[-2:])


def low_band_adjoint(band: torch.Tensor, height: int, width: int, wavelet: str = "haar", wavelet_levels: int = 1) -> torch.Tensor:
    """Transpose of `low_band` on (..., height, width)."""
    length = len(low_pass_taps(wavelet))
    sizes = [(height, width)]
    for _ in range(wavelet_levels - 1):
        sizes.append(tuple((side + length - 1) // 2 for side in sizes[-1]))
    planes = band.reshape(-1, 1, *band.shape[-2:])
    for size in reversed(sizes):
        planes = _analyze_adjoint(planes, *size, wavelet)
    return planes.reshape(*band.shape[:-2], height, width)


def gradient(denoised: torch.Tensor, reference: torch.Tensor, wavelet: str = "haar", wavelet_levels: int = 1) -> torch.Tensor:
    """dL/dx0 of L = sum (LL(denoised) - LL(reference))^2, shape of `denoised`.

    A reference of another size is compared at that size, against area averages of `denoised`.
    """
    if reference.shape[-2:] == denoised.shape[-2:]:
        deviation = denoised - reference
        return 2 * low_band_adjoint(low_band(deviation, wavelet, wavelet_levels), *deviation.shape[-2:], wavelet, wavelet_levels)
    rows, columns = (averages(n, m, denoised) for n, m in zip(denoised.shape[-2:], reference.shape[-2:]))
    return rows.mT @ gradient(rows @ denoised @ columns.mT, reference, wavelet, wavelet_levels) @ columns


def kappa(weight: float, t: float, ratio: float, schedule: str = "cosine", mode: str = "paper", clamp: bool = True, area: float = 1.0) -> float:
    """Fraction of the low band's deviation that one of the paper's steps removes from x0 at timestep `t`.

    mode "paper": 2 weight s(t) (1 + rho^2), for rho = `ratio` of noise to signal; "kappa": weight s(t). area: canvas
    cells for each compared cell, above 1 when the comparison is made at a smaller size. clamp keeps it at 1 or below;
    from 2 on the sampling diverges.
    """
    value = weight * schedule_weight(t, schedule)
    if mode == "paper":
        value *= 2 / area * (1 + ratio**2)
    return min(value, 1.0) if clamp else value


def structure_edit(denoised: torch.Tensor, reference: torch.Tensor, kappa: float, wavelet: str = "haar", wavelet_levels: int = 1, band: str = "wavelet") -> torch.Tensor:
    """What a step adds to x0: -kappa times the low band of denoised - reference.

    band: one of BANDS; another than the wavelet's compares on the canvas.
    """
    if band != "wavelet":
        return low_pass(denoised - reference, band).mul_(-kappa)
    area = denoised.shape[-2:].numel() / reference.shape[-2:].numel()
    return gradient(denoised, reference, wavelet, wavelet_levels).mul_(-kappa * area / 2)


def _blocks(wavelet, height, width):
    return wavelet in ("haar", "db1") and height % 2 == width % 2 == 0


def _analyze(planes, wavelet):
    if _blocks(wavelet, *planes.shape[-2:]):
        return 2 * F.avg_pool2d(planes, 2)
    taps = _taps(wavelet, planes)
    rows, columns = (_reflected(size, len(taps), planes.device) for size in planes.shape[-2:])
    extended = planes[..., rows, :][..., columns]
    return F.conv2d(extended, (taps[:, None] * taps)[None, None], stride=2)


def _analyze_adjoint(band, height, width, wavelet):
    if _blocks(wavelet, height, width):
        return 0.5 * band.repeat_interleave(2, -2).repeat_interleave(2, -1)
    taps = _taps(wavelet, band)
    rows, columns = (_analysis(size, taps) for size in (height, width))
    return rows.mT @ band @ columns


def _analysis(size, taps):
    """(h, size) matrix of one level along an axis. Its transpose is the adjoint, with no atomic additions on a GPU."""
    cells = torch.eye(size, device=taps.device, dtype=taps.dtype)[:, None, _reflected(size, len(taps), taps.device)]
    return F.conv1d(cells, taps[None, None], stride=2)[:, 0].mT


def _taps(wavelet, like):
    return torch.tensor(low_pass_taps(wavelet), device=like.device, dtype=like.dtype)


def _reflected(size, length, device):
    """Cells that a filter of `length` reads, mirrored at both ends with the end cell repeated."""
    index = torch.arange(2 - length, 2 * ((size + length - 1) // 2), device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)
