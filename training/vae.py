"""The frozen autoencoder whose latents a network learns: any that ComfyUI can load, or the mini world's."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import comfy.latent_formats
import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from safetensors import SafetensorError
from torch import nn

from ..models.latent_space import LatentSpace, latent_format
from ..models.mini import file as mini
from ..models.mini.world import LATENT_FACTOR
from .mini.denoiser import load_vae

MINI = "mini"


class FrozenVAE:
    """The mini world's autoencoder, and the interface of all: images (B, 3, H, W) in [0, 1] <-> scaled latents
    (B, C, h, w), float32. Sides are multiples of `ratio`."""

    def __init__(self, name: str, network: nn.Module, latent_format: comfy.latent_formats.LatentFormat, space: LatentSpace, pixels_per_cell: int):
        self.name, self.latent_format, self.space, self.pixels_per_cell = name, latent_format, space, pixels_per_cell
        self.network = network.requires_grad_(False).train(False)

    def to(self, device: str) -> "FrozenVAE":
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The posterior mode, on the CPU; in bfloat16, as this autoencoder was trained."""
        pixels = images.to(next(self.network.parameters()).device) * 2 - 1
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return self.latent_format.process_in(self.network.encode(pixels).float()).cpu()

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """What the network itself takes, still (B, C, h, w)."""
        return self.latent_format.process_out(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in the network's own range (mostly [-1, 1]), not clamped, differentiable, float32."""
        return self.network.decode(self.unscaled(latents)).float()

    @torch.no_grad()
    def view(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], on the CPU."""
        return self.decode(latents).add(1).div(2).clamp(0, 1).cpu()


class ComfyUIVAE(FrozenVAE):
    """A `comfy.sd.VAE`. A video autoencoder takes every image as one frame."""

    def __init__(self, name: str, vae: comfy.sd.VAE, latent_format: comfy.latent_formats.LatentFormat):
        space = LatentSpace(type(latent_format).__name__, vae.latent_channels)
        super().__init__(name, vae.first_stage_model, latent_format, space, vae.spacial_compression_encode())
        self.vae, self.video = vae, vae.latent_dim == 3

    def to(self, device: str) -> "ComfyUIVAE":
        comfy.model_management.load_models_gpu([self.vae.patcher], force_full_load=True)
        return self

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        # one by one: ComfyUI takes a batch for the frames of a video
        latents = torch.cat([self.vae.encode(image[None].movedim(1, -1)) for image in images])
        latents = self.latent_format.process_in(latents.float())
        return (latents[:, :, 0] if self.video else latents).cpu()

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        # video formats hold a mean a channel, (1, C, 1, 1, 1)
        return self.latent_format.process_out(latents[:, :, None])[:, :, 0] if self.video else self.latent_format.process_out(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        z = self.unscaled(latents).to(self.vae.vae_dtype)
        return self.network.decode(z[:, :, None])[:, :, 0].float() if self.video else self.network.decode(z).float()

    @torch.no_grad()
    def view(self, latents: torch.Tensor) -> torch.Tensor:
        # a batch of one frame each would count as one video
        pixels = torch.cat([self.vae.decode(z[None, :, None] if self.video else z[None]) for z in self.unscaled(latents.float())])
        return (pixels[:, 0] if self.video else pixels).movedim(-1, 1).float().cpu()


def load(file: str, format_name: str | None = None) -> FrozenVAE:
    """The autoencoder in a VAE file or a checkpoint, float32; `mini` is the bundled one.

    format_name: class name in comfy.latent_formats, any case. A checkpoint knows its own; a VAE file is asked for it
    when several kinds of latents have its shape. Raises SystemExit with what is wrong and what to do.
    """
    if file == MINI:
        return _mini()
    path = Path(file)
    if not path.is_file():
        raise SystemExit(f"--vae {file}: there is no such file. Name a VAE file or a checkpoint, or `mini` for the bundled autoencoder.")
    try:
        weights, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except (ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise SystemExit(f"--vae {file} cannot be read: {error}") from None
    found = None
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    if any(key.startswith(prefix) for key in weights):
        config = comfy.model_detection.model_config_from_unet(weights, prefix, metadata=metadata)
        if config is not None:
            found = config.latent_format
            weights = comfy.utils.state_dict_prefix_replace(weights, {key: "" for key in config.vae_key_prefix}, filter_keys=True)
            weights = config.process_vae_state_dict(weights)
    if not any("encoder" in key for key in weights):
        held = f"{len(weights)} entries, such as {next(iter(weights))}" if weights else "no autoencoder"
        raise SystemExit(f"--vae {file} has no encoder (it holds {held}). Training encodes images: name a whole VAE or a checkpoint with one.")
    vae = comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)
    if vae.first_stage_model is None:
        raise SystemExit(f"--vae {file}: this ComfyUI finds no autoencoder in it.")
    if vae.latent_dim == 1 or vae.output_channels != 3 or vae.extra_1d_channel is not None:
        raise SystemExit(f"--vae {file} is not an autoencoder of images ({type(vae.first_stage_model).__name__}, {vae.output_channels} output channels).")
    if vae.latent_dim == 3:
        print(f"{path.name} is a video autoencoder: every image is encoded as a single frame.")
    return ComfyUIVAE(path.name, vae, _latent_format(file, vae, format_name, found))


def _mini() -> FrozenVAE:
    space = mini.metadata_of("vae").latents
    return FrozenVAE(MINI, load_vae()[0], latent_format(space, MINI), space, LATENT_FACTOR)


def _latent_format(file: str, vae: comfy.sd.VAE, wanted: str | None, found) -> comfy.latent_formats.LatentFormat:
    fitting = {name: kind for name, kind in vars(comfy.latent_formats).items() if _fits(kind, vae)}
    if wanted is not None:
        match = [kind for name, kind in fitting.items() if name.lower() == wanted.lower()]
        if not match:
            raise SystemExit(f"--latent-format {wanted} does not fit {file} ({vae.latent_channels} channels, 1/{vae.spacial_compression_encode()} of the size). These do: {', '.join(fitting)}.")
        return match[0]()
    if found is not None:
        return found
    if len(fitting) != 1:
        raise SystemExit(f"--vae {file} does not say which latents it makes. Add --latent-format with one of: {', '.join(fitting) or 'none that this ComfyUI knows'}.")
    return next(iter(fitting.values()))()


def _fits(kind: object, vae: comfy.sd.VAE) -> bool:
    if not isinstance(kind, type) or not issubclass(kind, comfy.latent_formats.LatentFormat) or kind is comfy.latent_formats.LatentFormat:
        return False
    same_shape = kind.latent_channels == vae.latent_channels and kind.latent_dimensions == vae.latent_dim
    return same_shape and kind.spacial_downscale_ratio == vae.spacial_compression_encode()
