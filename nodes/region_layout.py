"""Overlapping regions of a canvas, for Regional Denoise and the other regional nodes."""

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ..engine.latents import samples_of
from ..engine.preview import draw
from ..methods.regions import RegionLayout
from . import inputs
from .checks import checked
from .types import Regions


class RegionLayoutNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionLayout",
            display_name="Region Layout",
            category="Loupe/regions",
            description=(
                "Covers a latent with overlapping regions of one size. Connect it where a node takes regions, and "
                "look at the preview to see the grid."
            ),
            search_aliases=["tiles", "tiled diffusion", "MultiDiffusion", "views", "regions"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latent that gives the canvas size; its content is not used."),
                *inputs.regions(
                    least=1,
                    region_width=(
                        "Region width in latent cells: 128 are 1024 pixels on SDXL, its native size. Clamped to the "
                        "canvas."
                    ),
                    region_height=(
                        "Region height in latent cells: 128 are 1024 pixels on SDXL, its native size. Clamped to the "
                        "canvas."
                    ),
                    overlap=(
                        "Fraction of a region that it shares with its neighbour. The papers use 0.5; less is faster "
                        "and shows seams earlier."
                    ),
                    blend=(
                        "Weights in the overlaps. uniform: plain average, as the papers do. gaussian: the middle of a "
                        "region counts most. linear: a ramp across the overlap."
                    ),
                ),
            ],
            outputs=[
                Regions.Output("regions", display_name="regions", tooltip="The layout, in latent cells."),
                io.Image.Output(
                    "preview", display_name="preview",
                    tooltip="The grid: brighter where more regions overlap, outlines in colour.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, samples, region_width, region_height, overlap, blend) -> io.NodeOutput:
        latent = samples_of(samples, "samples")
        height, width = latent.shape[-2:]
        layout = RegionLayout.from_overlap(height, width, region_height, region_width, overlap, blend)
        if not latent.any():  # ComfyUI resizes an empty latent of other cells than the model's
            layout = replace(layout, pixels_per_cell=samples.get("downscale_ratio_spacial"))
        preview = draw(layout).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(layout, preview, ui={"loupe_canvas": (height, width)})


NODES = [RegionLayoutNode]
