"""LATENT dicts at the border of the pack.

A LATENT holds unscaled samples; everything inside works on scaled ones (`latent_format.process_in`).
"""

from numbers import Integral

import comfy.sample
import comfy.utils
import torch
import torch.nn.functional as F

from ..methods.resize import area_resize

MOST_IMAGES = 65536  # that a batch may have had, for `batch_index`


def samples_of(latent: dict, socket: str, model=None) -> torch.Tensor:
    """The unscaled (B, C, ..., H, W) float32 samples of a LATENT. With `model` (ModelPatcher) they are
    that model's, and an image for a video model gets a time axis.

    Raises ValueError for nested latents (audio with video), anything else without two spatial
    dimensions, latents that hold nothing or no numbers, and another model's latents.
    """
    samples = latent["samples"]
    if samples.is_nested or samples.ndim not in (4, 5):
        raise ValueError(
            f"{socket} is a packed or nested latent; Loupe works on images and videos, "
            "(B, C, H, W) or (B, C, T, H, W). Separate the streams first."
        )
    if not samples.numel():
        raise ValueError(
            f"{socket} has the shape {tuple(samples.shape)} and holds nothing; expected at least one image of at least "
            "one latent cell. Connect another latent."
        )
    if not samples.isfinite().all():
        raise ValueError(
            f"{socket} holds values that are not finite (NaN or infinite). Check the sampler before it: "
            "a half-precision overflow or the wrong model is the usual cause."
        )
    if model is not None:
        latent_format = model.get_model_object("latent_format")
        if samples.shape[1] != latent_format.latent_channels:
            raise ValueError(
                f"{socket} has {samples.shape[1]} channels, the model's latents have {latent_format.latent_channels}. "
                "Use a latent made with this model's VAE."
            )
        if latent_format.latent_dimensions == 2 and samples.ndim == 5:
            raise ValueError(
                f"{socket} is a video latent of shape {tuple(samples.shape)}, the model's latents are images, "
                "(B, C, H, W). Use a latent made with this model's VAE."
            )
        if latent_format.latent_dimensions == 3 and samples.ndim == 4:
            samples = samples.unsqueeze(2)
    return samples.float()


def batch_index_of(latent: dict, socket: str) -> list[int] | None:
    """The place in an earlier batch of each image of a LATENT, or None.

    Raises ValueError for another number of places than images, and for places that no batch has.
    """
    places, images = latent.get("batch_index"), len(latent["samples"])
    if not places:
        return None
    known = isinstance(places, list) and all(isinstance(place, Integral) and 0 <= place < MOST_IMAGES for place in places)
    if not known or len(places) != images:
        raise ValueError(
            f"{socket} has {images} images and the batch_index {places!r:.60}; expected a place from 0 to "
            f"{MOST_IMAGES - 1} for each image. Connect the latent as its batch was taken apart."
        )
    return places


def noise_mask_of(latent: dict, socket: str) -> torch.Tensor | None:
    """The noise mask of a LATENT, (..., H, W) of any size, or None. Raises ValueError for one that holds nothing or no
    numbers."""
    mask = latent.get("noise_mask")
    if mask is not None and (mask.ndim < 2 or not mask.numel() or not mask.isfinite().all()):
        raise ValueError(
            f"{socket} has a noise mask of shape {tuple(mask.shape)} that is empty or holds values that are not finite "
            "(NaN or infinite). Connect another mask."
        )
    return mask if mask is None or mask.is_floating_point() else mask.float()


def as_sampled(latent: dict, socket: str, model) -> torch.Tensor:
    """`samples_of` what ComfyUI hands to a sampler of `model` (ModelPatcher): an empty latent gets the model's channels
    and cells."""
    samples_of(latent, socket)  # raises
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    return samples_of({"samples": samples}, socket, model)


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (height, width), each in its own unit, have the same aspect ratio, to a tenth."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= 0.1


def target_size(low: tuple[int, int], scale_by: float, width: int, height: int, ratio: int, socket: str = "samples") -> tuple[int, int]:
    """Target (height, width) in latent cells for the latent `socket` of `low` cells; width and height in pixels, `ratio`
    to a cell.

    Raises ValueError for a target that is smaller.
    """
    h, w = low
    if not width and not height:
        size = round(h * scale_by), round(w * scale_by)
    else:
        size = (
            height // ratio if height else round(h * (width // ratio) / w),
            width // ratio if width else round(w * (height // ratio) / h),
        )
    if size[0] < h or size[1] < w:
        raise ValueError(
            f"The target is {size[1] * ratio}x{size[0] * ratio} pixels and {socket} is {w * ratio}x{h * ratio}; "
            "it can only be enlarged. Raise width, height or scale_by."
        )
    return size


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
    """`samples` at the size, batch, device and dtype of `like`; an image serves for every frame.

    Raises ValueError for a video where `like` is an image, and for two videos of different length.
    """
    if samples.ndim > like.ndim:
        raise ValueError("reference is a video latent (B, C, T, H, W), the sampled latent is an image. Use a latent made with this model's VAE.")
    if samples.ndim < like.ndim:
        samples = samples.unsqueeze(2)
    if samples.ndim == 5 and samples.shape[2] not in (1, like.shape[2]):
        raise ValueError(f"reference has {samples.shape[2]} frames, the sampled latent has {like.shape[2]}. Use a reference of as many frames, or of one.")
    samples = resize(samples.to(like), *like.shape[-2:], kernel)
    return comfy.utils.repeat_to_batch_size(samples, like.shape[0]).expand_as(like)
