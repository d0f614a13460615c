"""LATENT dicts at the border of the pack.

A LATENT holds unscaled samples; everything inside works on scaled ones (`latent_format.process_in`).
"""

import comfy.sample
import comfy.utils
import torch
import torch.nn.functional as F

from ..methods.resize import area_resize


def samples_of(latent: dict, socket: str, model=None) -> torch.Tensor:
    """The unscaled (B, C, ..., H, W) float32 samples of a LATENT. With `model` (ModelPatcher) they are
    that model's, and a picture for a video model gets a time axis.

    Raises ValueError for nested latents (audio with video), anything else without two spatial
    dimensions, and another model's latents.
    """
    samples = latent["samples"]
    if samples.is_nested or samples.ndim not in (4, 5):
        raise ValueError(f"{socket} is a packed or nested latent; Loupe works on pictures and videos, (B, C, H, W) or (B, C, T, H, W). Separate the streams first.")
    if model is not None:
        latent_format = model.get_model_object("latent_format")
        if samples.shape[1] != latent_format.latent_channels:
            raise ValueError(f"{socket} has {samples.shape[1]} channels, the model's latents have {latent_format.latent_channels}. Use a latent made with this model's VAE.")
        if latent_format.latent_dimensions == 3 and samples.ndim == 4:
            samples = samples.unsqueeze(2)
    return samples.float()


def as_sampled(latent: dict, model) -> dict:
    """`latent` as ComfyUI hands it to a sampler of `model` (ModelPatcher): an empty one gets the model's channels and cells."""
    if latent["samples"].is_nested:
        return latent
    return with_samples(latent, comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial")))


def with_samples(latent: dict, samples: torch.Tensor) -> dict:
    """`latent` holding other `samples`, of any size: its noise mask and its place in a batch go on, the cell size of
    an empty latent does not."""
    return {**{key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}, "samples": samples}


def resize(samples: torch.Tensor, height: int, width: int, kernel: str = "bicubic") -> torch.Tensor:
    """Frame by frame, by torch's interpolation `kernel`; the same size returns the same tensor."""
    if samples.shape[-2:] == (height, width):
        return samples
    if kernel == "area":
        return area_resize(samples, height, width)
    frames = samples.reshape(-1, 1, *samples.shape[-2:])
    return F.interpolate(frames, size=(height, width), mode=kernel).reshape(*samples.shape[:-2], height, width)


def fit(samples: torch.Tensor, like: torch.Tensor, kernel: str = "bicubic") -> torch.Tensor:
    """`samples` at the size, batch, device and dtype of `like`; a picture serves for every frame.

    Raises ValueError for a video where `like` is a picture, and for two videos of different length.
    """
    if samples.ndim > like.ndim:
        raise ValueError("reference is a video latent (B, C, T, H, W), the sampled latent is a picture. Use a latent made with this model's VAE.")
    if samples.ndim < like.ndim:
        samples = samples.unsqueeze(2)
    if samples.ndim == 5 and samples.shape[2] not in (1, like.shape[2]):
        raise ValueError(f"reference has {samples.shape[2]} frames, the sampled latent has {like.shape[2]}. Use a reference of as many frames, or of one.")
    samples = resize(samples.to(like), *like.shape[-2:], kernel)
    return comfy.utils.repeat_to_batch_size(samples, like.shape[0]).expand_as(like)
