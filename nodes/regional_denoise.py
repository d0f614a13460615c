"""Denoising a large latent region by region."""

from comfy_api.latest import io

from ..engine import with_parts
from ..engine.positions import POSITIONS
from ..engine.sizes import Grid
from ..patches.regional_denoise import SIZES, RegionalDenoise
from . import inputs
from .checks import checked
from .types import Regions


class RegionalDenoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionalDenoise",
            display_name="Regional Denoise (Tiled)",
            category="Loupe/patches",
            description=(
                "Shows the model a large latent in overlapping regions of its native size and averages what it sees, "
                "at every step of any sampler. Prompts, masks, areas, inpainting and ControlNets are cut to each "
                "region."
            ),
            search_aliases=["tiled diffusion", "MultiDiffusion", "tiled sampling", "views"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The diffusion model, with any LoRA and other patches before this node.",
                ),
                *inputs.regions(
                    overlap=(
                        "Fraction of a region that it shares with its neighbour. The papers use 0.5; less is faster "
                        "and shows seams earlier. The step from region to region is rounded down to the model's patch "
                        "size."
                    ),
                    blend=(
                        "Weights in the overlaps. uniform: plain average, as the papers do. gaussian: the middle of a "
                        "region counts most. linear: a ramp across the overlap."
                    ),
                ),
                inputs.jitter(
                    "Move the regions by up to a quarter of the overlap, differently at every step, so that no seam "
                    "stays in one place (DemoFusion). Off: regions stay on their grid.",
                ),
                inputs.own_seed("jitter_seed", "Seed of the movement; the sampler's seed does not change it."),
                io.Combo.Input(
                    "size_conditioning", options=list(SIZES), default="canvas", advanced=True,
                    tooltip=(
                        "What models with size conditioning (SDXL, PixArt, HunyuanDiT) are told about a region. "
                        "canvas: a crop of the whole canvas at the region's place. native: an image of the region's "
                        "size, as C-Upscale does. unchanged: what the conditioning says."
                    ),
                ),
                inputs.regions_per_call(
                    "Regions in one network call. 0: as many as fit in memory. Halved when memory runs out. The "
                    "result is the same.",
                ),
                io.Combo.Input(
                    "rope_positions", options=list(POSITIONS), default="region", advanced=True, optional=True,
                    tooltip="Where models with movable positions see a region: as an image of its own, or at its place on the canvas.",
                ),
                inputs.jitter_until(0.5),
                Regions.Input(
                    "regions", optional=True,
                    tooltip=(
                        "Layout from Region Layout, instead of the region and overlap settings here. It must be made "
                        "from the latent that is sampled."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model, which now sees large latents region by region; for any sampler.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        region_width,
        region_height,
        overlap,
        blend,
        jitter,
        jitter_seed,
        size_conditioning,
        regions_per_call,
        rope_positions="region",
        jitter_until=0.5,
        regions=None,
    ) -> io.NodeOutput:
        grid = Grid.of(model.model)
        cut = {"layout": regions} if regions is not None else {"region": (grid.cells("region_height", region_height), grid.cells("region_width", region_width))}
        regional = RegionalDenoise(
            **cut,
            overlap=overlap,
            blend=blend,
            jitter=jitter,
            jitter_until=jitter_until,
            seed=jitter_seed,
            regions_per_call=regions_per_call,
            sizes=size_conditioning,
            positions=rope_positions,
        )
        return io.NodeOutput(with_parts(model, regional))


NODES = [RegionalDenoiseNode]
