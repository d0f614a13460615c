"""Overlapping regions of a canvas, for Regional Denoise and the other regional nodes."""

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ..engine.latents import as_sampled, samples_of
from ..engine.preview import draw
from ..engine.sizes import Grid
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
            search_aliases=["tile", "tiles", "tiled diffusion", "MultiDiffusion", "views", "regions"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latent that gives the canvas size; its content is not used."),
                *inputs.regions(
                    overlap="Fraction of a region shared with its neighbor.",
                    blend="Weights in the overlap: uniform (papers), gaussian (center counts most) or linear.",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The model that will sample, for its native side.",
                ),
            ],
            outputs=[
                Regions.Output("regions", display_name="regions", tooltip="The layout, in latent cells."),
                io.Image.Output(
                    "preview", display_name="preview",
                    tooltip="The grid: brighter where more regions overlap.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, samples, region_width, region_height, overlap, blend, model=None) -> io.NodeOutput:
        if model is None:
            latent, grid = samples_of(samples, "samples"), Grid.of_latent(samples)
        else:
            latent, grid = as_sampled(samples, "samples", model), Grid.of(model.model)
        layout = layout_of(grid, *latent.shape[-2:], region_width, region_height, overlap, blend)
        preview = draw(layout).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(layout, preview, ui={"loupe_canvas": tuple(latent.shape[-2:]), "loupe_grid": grid})


def layout_of(grid: Grid, height: int, width: int, region_width: int, region_height: int, overlap: float, blend: str) -> RegionLayout:
    """The regions of a canvas of `height` x `width` cells, of sizes in pixels."""
    region = grid.cells("region_height", region_height), grid.cells("region_width", region_width)
    layout = RegionLayout.from_overlap(height, width, *region, overlap, blend, grid.patch)
    return replace(layout, pixels_per_cell=grid.pixels_per_cell)


NODES = [RegionLayoutNode]
