"""PixelSmith (Tragakis et al., NeurIPS 2024)."""

import math

from comfy_api.latest import io

from ..engine.conditioning import check_prompts
from ..engine.latents import (
    batch_index_of,
    noise_mask_of,
    samples_of,
    with_samples,
)
from ..engine.sigmas import schedule
from ..engine.sizes import Grid
from ..methods.pixelsmith_plan import ORDERS, check_guided_steps
from ..patches.pixelsmith import SIZES, guided_steps_of, sample
from . import inputs
from .checks import checked, verdict
from .presets import PIXELSMITH, decided, default, preset_input


class PixelSmithSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupePixelSmithSampler",
            display_name="PixelSmith Sampler",
            category="Loupe/samplers",
            description=(
                "Draws new detail into an enlarged latent, patch by patch at the model's native size, while the first "
                "steps follow the latent's structure. Needs memory for a few patches and the canvas, at any size. "
                "Enlarge the image and encode it for PixelSmith, or enlarge the latent with Upscale Latent (LSR) "
                "and Add Noise at Edges for LSRNA-PixelSmith."
            ),
            search_aliases=["PixelSmith", "LSRNA", "upscale", "hires fix", "4k", "8k", "high resolution", "slider", "patch denoising"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, without Regional Denoise or DemoFusion.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the whole image shows; every patch sees it.",
                ),
                io.Conditioning.Input("negative", tooltip="What to keep out."),
                io.Latent.Input(
                    "guide",
                    tooltip="The image at its final size, as a latent.",
                ),
                preset_input(PIXELSMITH, "Network rows to spend; custom unlocks the settings it decides."),
                io.Float.Input(
                    "guided_until", default=0.4, min=0.0, max=1.0, step=0.01,
                    tooltip="Steps above this strength follow the guide. Paper: 0.60 at 2x, 0.40 at 4x.",
                ),
                *inputs.sampling(
                    steps=default(PIXELSMITH, "steps"),
                    steps_of="Steps that run.",
                    default=default(PIXELSMITH, "strength"),
                    strength_of="Noise that the steps start from; lower stays closer to the guide.",
                    seed_of="Seed of the noise and of the patches' places.",
                ),
                inputs.region_side("patch_size", "Side of a patch in pixels. 0: the model's native side."),
                io.Int.Input(
                    "guided_steps", default=0, min=0, max=1000, advanced=True,
                    tooltip="Steps, from the first, that follow the guide. 0: by guided_until.",
                ),
                io.Combo.Input(
                    "order", options=list(ORDERS), default=default(PIXELSMITH, "order"), advanced=True,
                    tooltip="random: patches around random pixels (paper). cover: a moving grid, fewer patches.",
                ),
                inputs.scheduler(
                    "Noise levels of the steps. Paper: DDIM's.",
                    default(PIXELSMITH, "scheduler"),
                ),
                io.Combo.Input(
                    "size_conditioning", options=list(SIZES), default="canvas", advanced=True,
                    tooltip="Size told to SDXL: a crop of the canvas, the published code's, or an image of its own (native).",
                ),
                inputs.regions_per_call("Patches in one network call. 0: as many as fit. The result is the same."),
            ],
            outputs=[
                io.Latent.Output(
                    "samples", display_name="latent",
                    tooltip="The denoised latent, as large as the guide.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset=None, steps=None, strength=None, guided_steps=None, order=None, scheduler=None):
        def check(preset, guided_steps, **widgets):
            chosen = decided(PIXELSMITH, preset, widgets)
            if guided_steps:
                check_guided_steps(guided_steps, chosen["steps"])

        return verdict(cls, check, preset=preset, steps=steps, strength=strength, guided_steps=guided_steps, order=order, scheduler=scheduler)

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        guide,
        preset,
        guided_until,
        steps,
        strength,
        cfg,
        seed,
        patch_size,
        guided_steps,
        order,
        scheduler,
        size_conditioning,
        regions_per_call,
    ) -> io.NodeOutput:
        chosen = decided(
            PIXELSMITH, preset,
            {"steps": steps, "strength": strength, "order": order, "scheduler": scheduler},
        )
        check_prompts(model.model, positive=positive, negative=negative)
        samples = samples_of(guide, "guide", model)
        patch = patch_cells(Grid.of(model.model), patch_size, *samples.shape[-2:])
        sigmas = schedule(model, chosen["scheduler"], chosen["steps"], chosen["strength"])
        out = sample(
            model,
            positive,
            negative,
            samples,
            sigmas,
            guided_steps=guided_steps or guided_steps_of(model, sigmas, guided_until),
            cfg=cfg,
            seed=seed,
            patch_size=patch,
            order=chosen["order"],
            sizes=size_conditioning,
            regions_per_call=regions_per_call,
            noise_mask=noise_mask_of(guide, "guide"),
            batch_index=batch_index_of(guide, "guide"),
        )
        return io.NodeOutput(with_samples(guide, out))


def patch_cells(grid: Grid, patch_size: int, height: int, width: int) -> int:
    """The side of a patch: whole tokens, and even, as patches have a center. Raises ValueError where the canvas of
    `height` x `width` cells does not hold one."""
    cells = grid.cells("patch_size", patch_size, math.lcm(2, grid.patch))
    if min(height, width) < cells:
        pixels = grid.pixels_per_cell
        raise ValueError(f"guide is {width * pixels} x {height * pixels} pixels and a patch {cells * pixels}; expected sides that hold a patch. Enlarge guide, or type a smaller patch_size.")
    return cells


NODES = [PixelSmithSampler]
