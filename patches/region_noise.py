"""Region-wise noise addition in LATENT units."""

import copy

import comfy.sampler_helpers
import comfy.sd
import torch

from ..engine.latents import same_aspect
from ..methods.noise import seeded_noise, stream
from ..methods.region_noise import edges, strength_map


def add_region_noise(
    model,
    samples: torch.Tensor,
    reference: torch.Tensor,
    e_min: float,
    e_max: float,
    seed: int,
    canny: tuple[float, float] = (0, 255),
    batch_index: list[int] | None = None,
    noise_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unscaled `samples` (B, C, ..., H, W) of `model` (ModelPatcher) with noise of standard deviation
    e_min to e_max, scaled units, by the edges of the images `reference` (N, h, w, 3), 0..1.

    N is 1, B, or B times the frames. Where `noise_mask`, of any size, is 0 nothing is added. Returns the noised samples and the strength maps (N, H, W).
    """
    size = tuple(samples.shape[-2:])
    height, width = reference.shape[1:3]
    if not same_aspect((height, width), size):
        raise ValueError(
            f"reference is {width}x{height} pixels and samples {size[1]}x{size[0]} latent cells: their aspect ratios "
            "differ. Connect the decoded image that the latent was enlarged from."
        )
    maps = torch.stack([strength_map(edges(image[..., :3], *canny), size, e_min, e_max) for image in reference])
    scaled = seeded_noise(samples.shape, stream(seed, "region-wise noise"), batch_index) * _spread(maps, samples)
    if noise_mask is not None:
        scaled = scaled * comfy.sampler_helpers.prepare_mask(noise_mask, samples.shape, scaled.device)
    # process_out is affine: its difference to zero is the noise alone, and none where the strength is 0
    latent_format = model.get_model_object("latent_format")
    added = latent_format.process_out(scaled) - latent_format.process_out(torch.zeros_like(scaled))
    return samples + added.to(samples), maps


def decode_float32(vae, samples: torch.Tensor) -> torch.Tensor:
    """`vae.decode` of unscaled samples in float32, whatever precision ComfyUI runs the VAE in: the thresholds 0 and 255
    make edges of single 8-bit steps. The weights stay as they were rounded when the file was loaded.

    A VAE with layers of its own decodes as it always does.
    """
    if isinstance(vae, comfy.sd.VAE) and vae.vae_dtype != torch.float32 and _casts_its_weights(vae.first_stage_model):
        patcher = vae.patcher.clone()
        patcher.set_model_compute_dtype(torch.float32)
        vae = copy.copy(vae)
        vae.patcher, vae.vae_dtype = patcher, torch.float32
    return vae.decode(samples)


def _casts_its_weights(network):
    """Whether every layer is one of ComfyUI's; what others multiply or add cell by cell takes any precision."""
    own = (module for module in network.modules() if not hasattr(module, "comfy_cast_weights"))
    return all(parameter.numel() == max(parameter.shape, default=1) for module in own for parameter in module.parameters(recurse=False))


def _spread(maps, samples):
    # (N, H, W) against (B, C, [T,] H, W), sample after sample
    batch, frames = samples.shape[0], samples.shape[2:-2]
    if len(maps) == batch * frames.numel():
        maps = maps.unflatten(0, (batch, *frames))
    elif len(maps) in (1, batch):
        maps = maps[(slice(None), *[None] * len(frames))]
    else:
        counts = f"1 or {batch}" if not frames else f"1, {batch} (one for each video) or {batch * frames.numel()} (one for each latent frame)"
        raise ValueError(f"reference has {len(maps)} images; connect {counts}.")
    return maps.unsqueeze(1)
