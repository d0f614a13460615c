"""PixelSmith (Tragakis et al., NeurIPS 2024)."""

from comfy_api.latest import io

from ..engine.conditioning import check_prompts
from ..engine.latents import (
    batch_index_of,
    noise_mask_of,
    samples_of,
    with_samples,
)
from ..engine.sigmas import levels_of, schedule
from ..methods.pixelsmith_plan import ORDERS, guided_by_level
from ..patches.pixelsmith import SIZES, sample
from . import inputs
from .checks import checked


class PixelSmithSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupePixelSmithSampler",
            display_name="PixelSmith Sampler",
            category="Loupe/sampling",
            description=(
                "Draws new detail into an enlarged latent, patch by patch at the model's native size, while the first "
                "steps follow the latent's structure. Needs memory for a few patches and the canvas, at any size. "
                "Enlarge the image and encode it for PixelSmith, or enlarge the latent with Upscale Latent (LSR) "
                "and Region-wise Noise for LSRNA-PixelSmith."
            ),
            search_aliases=["PixelSmith", "LSRNA", "upscale", "high resolution", "slider", "patch denoising"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The diffusion model, with any LoRA and other patches before this node, but without Regional "
                        "Denoise or DemoFusion: PixelSmith cuts the canvas itself."
                    ),
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the image shows. Describe the whole image: every patch sees it.",
                ),
                io.Conditioning.Input("negative", tooltip="What to keep out."),
                io.Latent.Input(
                    "guidance",
                    tooltip=(
                        "The image at its final size, as a latent: a Lanczos-enlarged image after VAE Encode "
                        "(paper), or a latent after Upscale Latent (LSR) and Region-wise Noise 0.4 to 0.8. A noise "
                        "mask on it limits what is redrawn."
                    ),
                ),
                io.Float.Input(
                    "guided_until", default=0.6, min=0.0, max=1.0, step=0.01,
                    tooltip=(
                        "Noise, counted as for strength, down to which steps follow the guidance: lower keeps more of "
                        "its structure. Paper: 0.60 for 2x, 0.40 for 4x."
                    ),
                ),
                *inputs.sampling(
                    steps=50,
                    steps_of="Steps that run. PixelSmith: 50. LSRNA-PixelSmith: 30.",
                    default=1.0,
                    strength_of=(
                        "Noise that the steps start from, the same on every model: lower stays closer to the "
                        "guidance. PixelSmith: 1.0. LSRNA-PixelSmith: 0.60."
                    ),
                    seed_of="Seed of the noise and of the patches' places.",
                ),
                io.Int.Input(
                    "patch_size", default=128, min=8, max=8192, step=2,
                    tooltip=(
                        "Side of a patch in latent cells: the model's native size, 128 for SDXL (1024 pixels), 64 for "
                        "SD 1.5. The canvas must be at least as large in both directions."
                    ),
                ),
                io.Int.Input(
                    "guided_steps", default=0, min=0, max=1000, advanced=True,
                    tooltip="Follow the guidance in this many steps, counted from the first, instead of by guided_until. 0: off.",
                ),
                io.Combo.Input(
                    "order", options=list(ORDERS), default="random", advanced=True,
                    tooltip=(
                        "random: patches around random pixels until all are done (paper). cover: a variant with the "
                        "fewest patches on a grid that moves from step to step; about 40 % fewer at 4096 x 4096, "
                        "borders may show."
                    ),
                ),
                inputs.scheduler(
                    "Noise levels of the steps. The paper's are DDIM's, on flow models evenly spread ones. Every step "
                    "is an Euler step.",
                ),
                io.Combo.Input(
                    "size_conditioning", options=list(SIZES), default="canvas", advanced=True,
                    tooltip=(
                        "What SDXL is told about the size of a patch. canvas: a crop of the canvas at the patch's "
                        "place. published: as canvas, but the column is told as row and column, a mistake of the "
                        "authors' code. native: an image of the patch's size. unchanged: what the conditioning says."
                    ),
                ),
                inputs.batch("Patches in one network call. 0: as many as fit in memory. The result is the same."),
            ],
            outputs=[
                io.Latent.Output(
                    "samples", display_name="latent",
                    tooltip="The denoised latent, as large as guidance.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        guidance,
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
        batch,
    ) -> io.NodeOutput:
        check_prompts(model.model, positive=positive, negative=negative)
        sigmas = schedule(model, scheduler, steps, strength)
        out = sample(
            model,
            positive,
            negative,
            samples_of(guidance, "guidance", model),
            sigmas,
            guided_steps=guided_steps or _guided_by_level(model, sigmas, guided_until),
            cfg=cfg,
            seed=seed,
            patch_size=patch_size,
            order=order,
            sizes=size_conditioning,
            regions_per_call=batch,
            noise_mask=noise_mask_of(guidance, "guidance"),
            batch_index=batch_index_of(guidance, "guidance"),
        )
        return io.NodeOutput(with_samples(guidance, out))


def _guided_by_level(model, sigmas, until):
    levels = levels_of(model.get_model_object("model_sampling"))
    return guided_by_level([levels.timestep(sigma) for sigma in sigmas[:-1].tolist()], until)


NODES = [PixelSmithSampler]
