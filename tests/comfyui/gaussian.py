"""Models whose network is the exact posterior mean of a Gaussian image prior, as eps, v and flow.

A mode of frequency f has power 1 / (f^2 + 1/24^2), scaled to cells of unit variance. Latents are their own scaled form.
Levels are given as rho, noise over signal, and are those of Stable Diffusion's timesteps.
"""

import comfy.latent_formats
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.supported_models
import tiny
import torch
import torch.nn.functional as F
from loupe.methods.schedules import sd_ratio

KINDS = {"eps": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION, "flow": comfy.model_base.ModelType.FLOW}
SIDE = 64


class Scaled(comfy.latent_formats.LatentFormat):
    latent_channels, scale_factor = 4, 1.0


def spectrum(height, width):
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    power = 1 / (rows[:, None] ** 2 + columns**2 + 24**-2)
    return power / power.mean()


def posterior_mean(y, rho):
    """E[x0 | x0 + rho n = y]."""
    power = spectrum(*y.shape[-2:])
    return torch.fft.ifft2(torch.fft.fft2(y.double()) * (power / (power + rho**2))).real.to(y)


class Network(torch.nn.Module):
    """Says denoised(y, rho) of y = x0 + rho n in the terms of `kind`."""

    def __init__(self, kind, sigmas, denoised):
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


def model(kind, denoised=posterior_mean, shift=1.0):
    conf = comfy.supported_models.SD15({"disable_unet_model_creation": True, "in_channels": 4, "adm_in_channels": None})
    conf.latent_format = Scaled()
    if kind == "flow":
        conf.sampling_settings = {"shift": shift}
    conf.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.BaseModel(conf, model_type=KINDS[kind])
    base.diffusion_model = Network(kind, base.model_sampling.sigmas, denoised)
    return tiny.patcher(base)


def sigma_of(kind, rho):
    return rho / (1 + rho) if kind == "flow" else rho


def sigmas_of(kind, levels):
    return torch.tensor([sigma_of(kind, rho) for rho in levels], dtype=torch.float32)


def sample(model, levels, latent, noise, sampler="euler", seed=0):
    """The latent at the end of `levels`, in units of x0."""
    kind = model.model.diffusion_model.kind
    return tiny.sample(model, latent, sampler, cfg=1.0, sigmas=sigmas_of(kind, levels), noise_tensor=noise, seed=seed)


def leading(steps, depth=None):
    """The last `depth` of DDIM's `steps`."""
    return [sd_ratio(1000 // steps * step + 1) for step in reversed(range(depth or steps))] + [0.0]


def trailing(steps, skipped=0):
    """What few-step models walk: 999, 749, 499, 249 for four."""
    return [sd_ratio(1000 * (steps - step) // steps - 1) for step in range(skipped, steps)] + [0.0]


def even(t, steps):
    """From timestep `t` in equal steps."""
    return [sd_ratio(t * (steps - step) / steps) for step in range(steps)] + [0.0]


def image(seed, batch=1, side=SIDE):
    modes = torch.fft.fft2(tiny.noise((batch, 4, side, side), seed).double())
    return torch.fft.ifft2(modes * spectrum(side, side).sqrt()).real.float()


def small(x):
    return F.avg_pool2d(x, 2)


def enlarged(x):
    return F.interpolate(x, scale_factor=2, mode="bicubic")


def rms(x):
    return float(x.double().square().mean().sqrt())


def low_error(x, reference):
    """Of block means."""
    return rms(small(x - reference))


def high_band(x):
    return x - small(x).repeat_interleave(2, -1).repeat_interleave(2, -2)
