"""What the presets of the samplers cost, for Estimate."""

from ..engine.sizes import Grid
from ..methods.pixelsmith_plan import plan
from ..patches.demofusion_sampler import phase_sizes, views_of
from ..patches.regional_denoise import RegionalDenoise
from .presets import DEMOFUSION, PIXELSMITH


def preset_rows(model, height: int, width: int, branches: int, batch: int) -> dict[str, dict[str, int]]:
    """Sampler -> preset -> network rows on a canvas of `height` x `width` cells, at the model's native regions.

    DemoFusion starts from an image of the native side. Empty where the canvas holds no region.
    """
    side = Grid.of(model.model).cells("region", 0)
    if min(height, width) < side:
        return {}
    scale = max(height, width) / side
    reference = round(height / scale), round(width / scale)

    def demofusion(preset):
        regional = RegionalDenoise((side, side), preset["overlap"], preset["blend"], jitter=preset["jitter"], sizes="canvas")
        sizes = phase_sizes(reference, (height, width), preset["mode"] == "progressive")
        return preset["steps"] * sum(views_of(model, reference, regional, size) for size in sizes)

    def pixelsmith(preset):
        return sum(len(sweep.patches) for sweep in plan(height, width, side // 2 * 2, preset["steps"], 1, 0, preset["order"]))

    of = {"DemoFusion Sampler": (demofusion, DEMOFUSION), "PixelSmith Sampler": (pixelsmith, PIXELSMITH)}
    return {sampler: {name: branches * batch * views(preset) for name, preset in presets.items()} for sampler, (views, presets) in of.items()}
