"""Region-wise noise addition (RNA of LSRNA)."""

import comfy.model_management
import torch
from comfy_api.latest import io

from ..host.latents import samples_of
from ..methods.noise import seeded_noise
from ..methods.rna import edges, strength_map


class RegionNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionNoise",
            display_name="Region-wise Noise (RNA)",
            category="Loupe/latent",
            description="Adds noise to an enlarged latent, strongest where the reference has edges, so that a following denoise draws detail there and leaves flat regions alone.",
            search_aliases=["LSRNA", "RNA", "Canny", "latent noise", "detail"],
            inputs=[
                io.Model.Input("model", tooltip="Model that will denoise the latent; its latent format gives the noise its unit."),
                io.Latent.Input("samples", tooltip="Enlarged latent, from Upscale Latent (LSR)."),
                io.Image.Input("reference", tooltip="The picture before enlarging, decoded; any resolution of the same aspect ratio. One picture, one for each sample, or one for each frame."),
                io.Float.Input("e_min", default=0.0, min=0.0, max=10.0, step=0.01, tooltip="Noise in flat regions: standard deviation in the model's scaled latent units (about 1 for a finished latent). Paper: 0 with DemoFusion, 0.4 with PixelSmith."),
                io.Float.Input("e_max", default=1.2, min=0.0, max=10.0, step=0.01, tooltip="Noise at the densest edges, same unit. Paper: 1.2 with DemoFusion, 0.8 with PixelSmith. 0 for both adds nothing."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Seed of the noise."),
                io.Int.Input("canny_low", default=0, min=0, max=2000, advanced=True, tooltip="Lower Canny threshold, gradient of the 8-bit grey picture. Paper: 0, keeps every line connected to a strong edge."),
                io.Int.Input("canny_high", default=255, min=0, max=2000, advanced=True, tooltip="Upper Canny threshold, gradient of the 8-bit grey picture. Paper: 255; lower finds more edges."),
            ],
            outputs=[
                io.Latent.Output("noised", display_name="latent", tooltip="The latent with noise added once; denoise it with a sampler."),
                io.Image.Output("strength", display_name="strength", tooltip="Where the noise went: one pixel for a latent cell, white is e_max."),
            ],
        )

    @classmethod
    def execute(cls, model, samples, reference, e_min, e_max, seed, canny_low, canny_high) -> io.NodeOutput:
        latent = samples_of(samples, "samples")
        latent_format = model.get_model_object("latent_format")
        if latent.shape[1] != latent_format.latent_channels:
            raise ValueError(f"samples has {latent.shape[1]} channels, the latents of model have {latent_format.latent_channels}. Connect the model that the latent belongs to.")
        size = tuple(latent.shape[-2:])
        check_aspect(reference, size)

        maps = torch.stack([strength_map(edges(picture[..., :3], canny_low, canny_high), size, e_min, e_max) for picture in reference])
        noise = seeded_noise(latent.shape, seed, samples.get("batch_index"))
        scaled = noise * spread(maps, latent)
        # process_out is affine: its difference to zero is the noise alone, and none where the strength is 0
        added = latent_format.process_out(scaled) - latent_format.process_out(torch.zeros_like(scaled))

        out = samples.copy()
        out["samples"] = latent + added.to(latent)
        preview = maps / max(e_max, 1e-6)
        return io.NodeOutput(out, preview[..., None].expand(*preview.shape, 3).to(comfy.model_management.intermediate_device()))


def check_aspect(reference: torch.Tensor, size: tuple[int, int]) -> None:
    height, width = reference.shape[1:3]
    if abs(height * size[1] / (width * size[0]) - 1) > 0.1:
        raise ValueError(f"reference is {width}x{height} pixels and samples {size[1]}x{size[0]} latent cells: their aspect ratios differ. Connect the decoded picture that the latent was enlarged from.")


def spread(maps: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Strength maps (N, H, W) against a latent (B, C, [T,] H, W), for N of 1, B or B * T (sample after sample)."""
    batch, frames = latent.shape[0], latent.shape[2:-2]
    if len(maps) == batch * frames.numel():
        maps = maps.unflatten(0, (batch, *frames))
    elif len(maps) in (1, batch):
        maps = maps[(slice(None), *[None] * len(frames))]
    else:
        counts = f"1 or {batch}" if not frames else f"1, {batch} (one for each video) or {batch * frames.numel()} (one for each latent frame)"
        raise ValueError(f"reference has {len(maps)} pictures; connect {counts}.")
    return maps.unsqueeze(1)


NODES = [RegionNoise]
