"""Region-wise noise addition (RNA of LSRNA)."""

import comfy.model_management
from comfy_api.latest import io

from ..engine.latents import samples_of, with_samples
from ..patches.region_noise import add_region_noise


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
        latent = samples_of(samples, "samples", model)
        noised, maps = add_region_noise(model, latent, reference, e_min, e_max, seed, (canny_low, canny_high), samples.get("batch_index"), samples.get("noise_mask"))

        out = with_samples(samples, noised)
        preview = maps / max(e_max, 1e-6)
        return io.NodeOutput(out, preview[..., None].expand(*preview.shape, 3).to(comfy.model_management.intermediate_device()))


NODES = [RegionNoise]
