"""Decoding to any size under ComfyUI's memory manager."""

import os

import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ...methods.regions import Region
from ..loaded import Loaded, fitting_rows
from . import tap
from .file import load
from .network import ImplicitDecoder, LIIFDecoder
from .resample import bicubic
from .tap import Decoded
from .tiled import decode_tiled, tile_count

QUERIES_PER_CHUNK = 65536
SMALLEST, LARGEST = 0.25, 16.0


class LoadedDecoder(Loaded[LIIFDecoder]):
    """What a LOUPE_IMPLICIT_DECODER socket carries."""

    def __init__(self, network: LIIFDecoder, name: str):
        super().__init__(network, name, comfy.model_management.vae_offload_device())

    @classmethod
    def from_file(cls, path: str, name: str | None = None) -> "LoadedDecoder":
        return cls(load(path)[0], name or os.path.basename(path))


class AnyScale:
    """A VAE, an implicit decoder or both, ready to decode.

    Raises ValueError when they do not fit each other, or the VAE is of a kind without usable features.
    """

    def __init__(self, vae: comfy.sd.VAE | None, decoder: LoadedDecoder | None):
        self.decoder, self.network = decoder, None if decoder is None else decoder.network
        if isinstance(self.network, ImplicitDecoder):
            self.vae = None
            self.name, self.factor, self.channels = decoder.name, self.network.factor, self.network.args["channels"]
        else:
            if vae is None:
                raise ValueError(f"vae is not connected, and {'neither is decoder' if decoder is None else f'{decoder.name} adds to the image of the VAE that it was trained on'}. Connect your checkpoint's VAE.")
            vae.throw_exception_if_invalid()
            tap.last_layer(vae.first_stage_model)
            if self.network is not None and not self.network.fits(vae.first_stage_model):
                raise ValueError(f"{decoder.name} was not trained on the connected VAE. Connect the VAE that it was trained on, load another decoder, or disconnect it for a plain enlargement.")
            self.vae = vae
            self.name, self.factor, self.channels = "the VAE", vae.spacial_compression_decode(), vae.latent_channels
        self.device = self.vae.patcher.load_device if decoder is None else decoder.device

    def target_size(self, h: int, w: int, scale_by: float, width: int, height: int) -> tuple[int, int]:
        """Pixels (height, width) for an (h, w) latent: `scale_by` times its own size, or width and height,
        of which a 0 follows the other. Raises ValueError outside 0.25 to 16 times its own size."""
        own = h * self.factor, w * self.factor
        if width or height:
            size = height or round(own[0] * width / own[1]), width or round(own[1] * height / own[0])
        else:
            size = round(own[0] * scale_by), round(own[1] * scale_by)
        if any(not SMALLEST * side - 1 < target < LARGEST * side + 1 or target < 1 for side, target in zip(own, size)):
            raise ValueError(f"The target is {size[1]}x{size[0]} pixels and samples decodes to {own[1]}x{own[0]}; a side can become {SMALLEST} to {LARGEST:g} times as long. Change scale_by, width or height.")
        return size

    def decode(self, samples: torch.Tensor, height: int, width: int, tile: int, overlap: int) -> torch.Tensor:
        """Unscaled latents (B, C, h, w) to images (B, height, width, 3) in 0..1, float32, on ComfyUI's
        intermediate device.

        Latents larger than `tile` cells are decoded in tiles that share `overlap` cells. Raises ValueError
        for latents of another kind, or not finite.
        """
        if samples.shape[1] != self.channels:
            raise ValueError(f"samples has {samples.shape[1]} channels; {self.name} decodes latents with {self.channels}. Connect a latent made for it.")
        if not samples.isfinite().all():
            raise ValueError("samples holds values that are not finite (NaN or infinite), which would make a black image. Check the sampler before it: a half-precision overflow or the wrong model is the usual cause.")
        h, w = samples.shape[-2:]
        size = height, width
        rows = max(1, min(height, QUERIES_PER_CHUNK // width))

        def memory(rows):
            return self.query_memory(h, w, size, rows)

        self.load(max(self.features_memory(min(h, tile), min(w, tile)), memory(rows)))
        rows = fitting_rows(rows, memory, self.device)

        images = torch.empty(len(samples), height, width, 3, device=comfy.model_management.intermediate_device())
        bar = comfy.utils.ProgressBar(len(samples) * (tile_count(h, w, tile, overlap) + -(-height // rows)))

        def progress():
            bar.update(1)
            comfy.model_management.throw_exception_if_processing_interrupted()

        for z, image in zip(samples, images):
            decoded = decode_tiled(self.features, z[None], tile, overlap, images.device, progress)
            for y in range(0, height, rows):
                band = Region(y, 0, min(rows, height - y), width)
                image[y : y + band.height] = self.query(decoded, size, band)[0].movedim(0, -1).add(1).div(2).clamp(0, 1)
                progress()
        return images

    def load(self, memory: int) -> None:
        """VAE and decoder onto the device, with `memory` bytes to spare."""
        vae, full = [self.vae.patcher] if self.vae else [], bool(self.vae and self.vae.disable_offload)
        if self.decoder is None:
            comfy.model_management.load_models_gpu(vae, memory_required=memory, force_full_load=full)
        else:
            self.decoder.load(memory, *vae, force_full_load=full)

    def features(self, z: torch.Tensor) -> Decoded:
        if self.vae is None:
            return self.network.features(z.to(self.device))
        return tap.decode(self.vae.first_stage_model, z.to(self.vae.device, self.vae.vae_dtype))

    def query(self, decoded: Decoded, size: tuple[int, int], band: Region) -> torch.Tensor:
        if self.network is None:
            return bicubic(decoded.image.float(), size, band)
        return self.network.query(decoded, size, band)

    def features_memory(self, h: int, w: int) -> float:
        """Bytes that decoding one (h, w) latent takes."""
        if self.vae is None:
            return self.network.features_memory(h, w)
        frame = (1,) if self.vae.latent_dim == 3 else ()
        return self.vae.memory_used_decode((1, self.channels, *frame, h, w), self.vae.vae_dtype)

    def query_memory(self, h: int, w: int, size: tuple[int, int], rows: int) -> int:
        """Bytes that `rows` rows of the image of `size` take."""
        if self.network is None:
            return 4 * 3 * 4 * rows * size[1]
        return self.network.query_memory(h * self.factor, w * self.factor, size, rows)
