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
                "Shows the model a large latent in overlapping regions of its native size and averages the predictions, "
                "at every step of any sampler. Prompts, masks, areas, inpainting and ControlNets are cut to each "
                "region."
            ),
            search_aliases=["tile", "tiled", "ultimate upscale", "upscale", "seam", "4k", "8k", "tiled diffusion", "MultiDiffusion", "tiled sampling", "views"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with any LoRA and other patches.",
                ),
                *inputs.regions(
                    overlap="Fraction of a region shared with its neighbor; less is faster.",
                    blend="Weights in the overlap: uniform (papers), gaussian (center counts most) or linear.",
                ),
                inputs.jitter(
                    "Move the regions at every step, so that seams do not stay in place.",
                ),
                inputs.own_seed("jitter_seed", "Seed of the movement; the sampler's seed does not change it."),
                io.Combo.Input(
                    "size_conditioning", options=list(SIZES), default="canvas", advanced=True,
                    tooltip="Size told to SDXL, PixArt and HunyuanDiT: a crop of the canvas, or an image of its own (native).",
                ),
                inputs.regions_per_call(
                    "Regions in one network call. 0: as many as fit. The result is the same.",
                ),
                io.Combo.Input(
                    "rope_positions", options=list(POSITIONS), default="region", advanced=True, optional=True,
                    tooltip="Positions told to the model: each region from 0, or its place on the canvas.",
                ),
                inputs.jitter_until(0.5),
                Regions.Input(
                    "regions", optional=True,
                    tooltip="Layout from Region Layout, instead of the sizes here.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model, for any sampler.",
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
