"""Overlapping regions of a canvas, for Regional Denoise and the other regional nodes."""

from dataclasses import replace

import comfy.model_management
import torch
from comfy_api.latest import io

from ..engine.latents import samples_of
from ..methods.regions import BLENDS, RegionLayout
from .types import Regions

PREVIEW = 1024


class RegionLayoutNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionLayout",
            display_name="Region Layout",
            category="Loupe/regions",
            description="Covers a latent with overlapping regions of one size. Connect it where a node takes regions, and look at the preview to see the grid.",
            search_aliases=["tiles", "tiled diffusion", "MultiDiffusion", "views", "regions"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latent that gives the canvas size; its content is not used."),
                io.Int.Input("region_width", default=128, min=1, max=8192, tooltip="Region width in latent cells: 128 are 1024 pixels on SDXL, its native size. Clamped to the canvas."),
                io.Int.Input("region_height", default=128, min=1, max=8192, tooltip="Region height in latent cells: 128 are 1024 pixels on SDXL, its native size. Clamped to the canvas."),
                io.Float.Input("overlap", default=0.5, min=0.0, max=0.95, step=0.01, tooltip="Fraction of a region that it shares with its neighbour. The papers use 0.5; less is faster and shows seams earlier."),
                io.Combo.Input("blend", options=list(BLENDS), default="uniform", tooltip="Weights in the overlaps. uniform: plain average, as the papers do. gaussian: the middle of a region counts most. linear: a ramp across the overlap."),
            ],
            outputs=[
                Regions.Output("regions", display_name="regions", tooltip="The layout, in latent cells."),
                io.Image.Output("preview", display_name="preview", tooltip="The grid: brighter where more regions overlap, outlines in colour."),
            ],
        )

    @classmethod
    def execute(cls, samples, region_width, region_height, overlap, blend) -> io.NodeOutput:
        latent = samples_of(samples, "samples")
        height, width = latent.shape[-2:]
        layout = RegionLayout.from_overlap(height, width, region_height, region_width, overlap, blend)
        if not latent.any():  # ComfyUI resizes an empty latent of other cells than the model's
            layout = replace(layout, pixels_per_cell=samples.get("downscale_ratio_spacial"))
        return io.NodeOutput(layout, draw(layout).to(comfy.model_management.intermediate_device()), ui={"loupe_canvas": (height, width)})


def draw(layout: RegionLayout) -> torch.Tensor:
    """Picture (1, h, w, 3) of the regions: grey by the number of regions on a cell, outlines in turn
    orange, blue and green."""
    zoom = max(1, PREVIEW // max(layout.height, layout.width))
    count = torch.zeros(layout.height * zoom, layout.width * zoom)
    boxes = [[side * zoom for side in region] for region in layout.regions]
    for y, x, height, width in boxes:
        count[y : y + height, x : x + width] += 1
    picture = (0.15 + 0.45 * count / count.max())[..., None].repeat(1, 1, 3)
    for i, (y, x, height, width) in enumerate(boxes):
        colour = torch.tensor([(1.0, 0.6, 0.1), (0.3, 0.6, 1.0), (0.4, 0.9, 0.4)][i % 3])
        picture[y : y + height, [x, x + width - 1]] = colour
        picture[[y, y + height - 1], x : x + width] = colour
    return picture[None]


NODES = [RegionLayoutNode]
