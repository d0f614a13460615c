"""Models whose network is the exact posterior mean of a Gaussian image prior, as eps, v and flow.

A mode of frequency f has power 1 / (f^2 + 1/24^2), scaled to cells of unit variance. Latents are their own scaled form.
"""

from __future__ import annotations

from collections.abc import Callable

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
import torch.nn.functional as F

from ..methods.noise import seeded_noise

KINDS = {"eps": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION, "flow": comfy.model_base.ModelType.FLOW}
CORNER = 1 / 24  # frequency, cycles a cell
SIDE = 64


class Scaled(comfy.latent_formats.LatentFormat):
    latent_channels, scale_factor = 4, 1.0


def spectrum(height: int, width: int) -> torch.Tensor:
    """Variance of each mode, (height, width), float64."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    power = 1 / (rows[:, None] ** 2 + columns**2 + CORNER**2)
    return power / power.mean()


def posterior_mean(y: torch.Tensor, rho: float) -> torch.Tensor:
    """E[x0 | x0 + rho n = y]."""
    power = spectrum(*y.shape[-2:])
    return torch.fft.ifft2(torch.fft.fft2(y.double()) * (power / (power + rho**2))).real.to(y)


class Network(torch.nn.Module):
    """Says denoised(y, rho) of y = x0 + rho n in the terms of `kind`."""

    def __init__(self, kind: str, sigmas: torch.Tensor, denoised: Callable[[torch.Tensor, float], torch.Tensor]):
        super().__init__()
        self.dtype, self.kind, self.sigmas, self.denoised = torch.float32, kind, sigmas, denoised

    def forward(self, x, timesteps, context=None, **kwargs):
        t = float(timesteps[0])
        if self.kind == "flow":
            s = t / 1000
            return (x - (torch.zeros_like(x) if s == 1 else self.denoised(x / (1 - s), s / (1 - s)))) / s
        rho = float(self.sigmas[round(t)])
        y = x * (1 + rho**2) ** 0.5
        noise = (y - self.denoised(y, rho)) / rho
        return noise if self.kind == "eps" else noise * (1 + rho**2) ** 0.5 - y * rho / (1 + rho**2) ** 0.5


def model(kind: str, denoised: Callable[[torch.Tensor, float], torch.Tensor] = posterior_mean, shift: float = 1.0) -> comfy.model_patcher.ModelPatcher:
    conf = comfy.supported_models.SD15({"disable_unet_model_creation": True, "in_channels": 4, "adm_in_channels": None})
    conf.latent_format = Scaled()
    if kind == "flow":
        conf.sampling_settings = {"shift": shift}
    conf.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.BaseModel(conf, model_type=KINDS[kind])
    base.diffusion_model = Network(kind, base.model_sampling.sigmas, denoised)
    base.eval()
    return comfy.model_patcher.CoreModelPatcher(base, load_device=comfy.model_management.get_torch_device(), offload_device=comfy.model_management.unet_offload_device())


def sample(model, sigmas: torch.Tensor, latent: torch.Tensor, seed: int = 0, sampler: str = "euler") -> torch.Tensor:
    """`latent` denoised along `sigmas` from `seeded_noise` on it."""
    empty = [[torch.zeros(1, 1, 8), {}]]
    return comfy.sample.sample_custom(model, seeded_noise(latent.shape, seed), 1.0, comfy.samplers.sampler_object(sampler), sigmas, empty, empty, latent, disable_pbar=True, seed=seed)


def image(seed: int, batch: int = 1, side: int = SIDE) -> torch.Tensor:
    """Drawn from the prior, (B, 4, side, side)."""
    modes = torch.fft.fft2(seeded_noise((batch, 4, side, side), seed).double())
    return torch.fft.ifft2(modes * spectrum(side, side).sqrt()).real.float()


def small(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 2)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bicubic")
