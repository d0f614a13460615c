"""Enlarging latents through pixels, in the place of a latent super-resolution network."""

import comfy.utils
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

METHODS = ("lanczos", "bicubic")


def enlarge(images: torch.Tensor, width: int, height: int, upscale_model=None, method: str = METHODS[0]) -> torch.Tensor:
    """IMAGE (B, h, w, 3) at (height, width), by `upscale_model` (UPSCALE_MODEL) first if there is one."""
    if upscale_model is not None:
        images = ImageUpscaleWithModel.execute(upscale_model, images).result[0]
    return comfy.utils.common_upscale(images.movedim(-1, 1), width, height, method, "disabled").movedim(1, -1)


def encode_each(vae, images: torch.Tensor) -> torch.Tensor:
    """Latents of an IMAGE: a VAE for videos would take a batch of images for frames."""
    return torch.cat([vae.encode(image) for image in images.split(1)])


class PixelUpscaler:
    """What a LOUPE_LSR socket carries for any model: decoded, enlarged as an image, encoded.

    vae: of the latents. upscale_model: what enlarges the image first, None for `method` alone.
    """

    def __init__(self, vae, upscale_model=None, method: str = METHODS[0]):
        self.vae, self.upscale_model, self.method = vae, upscale_model, method

    @property
    def pixels_per_cell(self) -> int:
        return self.vae.spacial_compression_encode()

    def upscale(self, samples: torch.Tensor, height: int, width: int, socket: str = "samples") -> torch.Tensor:
        """Unscaled (B, C, ..., h, w) to (B, C, ..., height, width), sample by sample. The same size returns `samples`.

        Raises ValueError for latents of another VAE.
        """
        if samples.shape[1] != self.vae.latent_channels:
            raise ValueError(f"{socket} has {samples.shape[1]} channels; the connected vae has latents of {self.vae.latent_channels}. Connect the VAE of the model that made the latent.")
        if samples.shape[-2:] == (height, width):
            return samples
        # a VAE for videos takes a batch of images for frames
        return torch.cat([self._upscaled(sample[None], height, width) for sample in samples])

    def _upscaled(self, sample, height, width):
        images = self.vae.decode(sample)
        size = width * self.pixels_per_cell, height * self.pixels_per_cell
        return self.vae.encode(enlarge(images.flatten(0, -4)[..., :3], *size, self.upscale_model, self.method)).to(sample)

