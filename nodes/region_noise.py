"""Region-wise noise addition (RNA of LSRNA)."""

import comfy.model_management
from comfy_api.latest import io

from ..engine.latents import (
    batch_index_of,
    noise_mask_of,
    samples_of,
    with_samples,
)
from ..methods.region_noise import check_strengths, start_factor
from ..methods.schedules import start_for
from ..patches.region_noise import add_region_noise
from . import inputs
from .checks import checked, rgb, verdict

PAPERS_STRENGTH = 0.6


class RegionNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionNoise",
            display_name="Add Noise at Edges (RNA)",
            category="Loupe/latent",
            description=(
                "Adds noise to an enlarged latent, strongest where the reference has edges, so that a following "
                "denoise draws detail there and leaves flat regions alone."
            ),
            search_aliases=["LSRNA", "RNA", "Canny", "latent noise", "detail"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that will denoise the latent.",
                ),
                io.Latent.Input("samples", tooltip="Enlarged latent, from Upscale Latent (LSR)."),
                io.Image.Input(
                    "reference",
                    tooltip="The image before enlarging; its edges get the noise.",
                ),
                *inputs.added_noise(
                    flat="Noise in flat areas. Paper: 0 for DemoFusion, 0.4 for PixelSmith.",
                    edges="Noise at edges. Paper: 1.2 for DemoFusion, 0.8 for PixelSmith.",
                ),
                inputs.seed("Seed of the noise."),
                *inputs.canny(
                    canny_low="Lower Canny threshold. Paper: 0.",
                    canny_high="Upper Canny threshold; lower finds more edges. Paper: 255.",
                ),
                inputs.strength(
                    PAPERS_STRENGTH,
                    "Strength of the denoise that follows; below 0.60 less noise is added.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "noised", display_name="latent",
                    tooltip="The latent with noise added once; denoise it with a sampler.",
                ),
                io.Image.Output(
                    "noise_map", display_name="noise map",
                    tooltip="Where noise was added; white is noise_edges.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, noise_flat=None, noise_edges=None):
        return verdict(cls, lambda noise_flat, noise_edges: check_strengths(noise_flat, noise_edges), noise_flat=noise_flat, noise_edges=noise_edges)

    @classmethod
    @checked
    def execute(cls, model, samples, reference, noise_flat, noise_edges, seed, canny_low, canny_high, strength) -> io.NodeOutput:
        check_strengths(noise_flat, noise_edges)
        factor = start_factor(start_for(strength), start_for(PAPERS_STRENGTH))
        noise_flat, noise_edges = factor * noise_flat, factor * noise_edges
        noised, maps = add_region_noise(
            model,
            samples_of(samples, "samples", model),
            rgb(reference, "reference"),
            e_min=noise_flat,
            e_max=noise_edges,
            seed=seed,
            canny=(canny_low, canny_high),
            batch_index=batch_index_of(samples, "samples"),
            noise_mask=noise_mask_of(samples, "samples"),
        )
        shown = (maps / max(noise_edges, 1e-6))[..., None].expand(*maps.shape, 3)
        return io.NodeOutput(with_samples(samples, noised), shown.to(comfy.model_management.intermediate_device()))


NODES = [RegionNoise]
