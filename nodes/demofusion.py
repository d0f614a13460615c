"""DemoFusion (Du et al., CVPR 2024) and, with an LSR, LSRNA-DemoFusion (Jeong et al., CVPR 2025)."""

from comfy_api.latest import io

from ..engine import Canvas
from ..engine.conditioning import check_prompts
from ..engine.latents import (
    batch_index_of,
    noise_mask_of,
    resize,
    samples_of,
    target_size,
    with_samples,
)
from ..engine.progress import notice
from ..engine.sigmas import levels_of, schedule
from ..engine.sizes import Grid
from ..methods.region_noise import check_strengths, start_factor
from ..methods.schedules import DEMOFUSION_RATIO
from ..models.lsr.pixels import PixelUpscaler
from ..patches.demofusion import patch_demofusion
from ..patches.demofusion_sampler import phase_sizes, sample_demofusion
from ..patches.region_noise import add_region_noise, decode_float32
from ..patches.regional_denoise import SIZES, RegionalDenoise
from . import inputs
from .checks import checked, verdict
from .presets import DEMOFUSION, decided, default, preset_input
from .types import LSR

PROGRESSIVE, DIRECT = "progressive", "direct"


def method_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "skip_exponent", default=3.0, min=0.0, max=100.0, step=0.1, advanced=True,
            tooltip="How quickly the pull towards the reference decays (alpha 1). Paper: 3.",
        ),
        io.Float.Input(
            "dilation_exponent", default=1.0, min=0.0, max=100.0, step=0.1, advanced=True,
            tooltip="How quickly the global pass decays (alpha 2). Paper: 1.",
        ),
        io.Float.Input(
            "blur_exponent", default=1.0, min=0.0, max=100.0, step=0.1, advanced=True,
            tooltip="How quickly the global pass's blur decays (alpha 3). Paper: 1.",
        ),
        io.Float.Input(
            "blur_std", default=0.8, min=0.05, max=10.0, step=0.05, advanced=True,
            tooltip="Blur of the global pass at full noise, in latent cells.",
        ),
    ]


class DemoFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeDemoFusion",
            display_name="DemoFusion",
            category="Loupe/patches",
            description=(
                "Keeps a large image coherent while it is denoised: every step is drawn towards the reference (skip "
                "residual), and subsampled copies of the whole canvas are denoised alongside it (dilated pass). Use it "
                "together with Regional Denoise, in any order."
            ),
            search_aliases=["LSRNA", "skip residual", "dilated sampling", "high resolution fix"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with any LoRA and other patches.",
                ),
                io.Latent.Input(
                    "reference",
                    tooltip="The finished image at its native size, as a latent.",
                ),
                *method_inputs(),
                io.Int.Input(
                    "dilation", default=0, min=0, max=64, advanced=True,
                    tooltip="Subsampling of the global pass. 0: automatic. 1: off.",
                ),
                io.Boolean.Input(
                    "renormalize", default=True,
                    tooltip="Give the result the reference's mean and contrast.",
                ),
                io.Latent.Input(
                    "guide", optional=True,
                    tooltip="Latent to follow. Default: the reference, resized.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model with both passes, for most samplers.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        reference,
        skip_exponent,
        dilation_exponent,
        blur_exponent,
        blur_std,
        dilation,
        renormalize,
        guide=None,
    ) -> io.NodeOutput:
        patched = patch_demofusion(
            model,
            samples_of(reference, "reference", model),
            None if guide is None else samples_of(guide, "guide", model),
            scale=dilation,
            alphas=(skip_exponent, dilation_exponent, blur_exponent),
            blur_std=blur_std,
            renormalize=renormalize,
        )
        return io.NodeOutput(patched)


class DemoFusionSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeDemoFusionSampler",
            display_name="DemoFusion Sampler",
            category="Loupe/samplers",
            description=(
                "Enlarges a finished latent and draws new detail into it, in few steps by default. Preset DemoFusion "
                "paper is DemoFusion; preset LSRNA paper, with an LSR and a VAE, is LSRNA-DemoFusion. Equal to "
                "Regional Denoise and DemoFusion before a stock sampler (Euler)."
            ),
            search_aliases=["LSRNA", "upscale", "hires fix", "4k", "8k", "high resolution", "DemoFusion"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with any LoRA and other patches.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the whole image shows; every region sees it.",
                ),
                io.Conditioning.Input("negative", tooltip="What to keep out."),
                io.Latent.Input(
                    "reference",
                    tooltip="The finished image at the model's native size, as a latent.",
                ),
                *inputs.size(
                    scale_by="Factor for both sides, if width and height are 0.",
                    width="Width in pixels. 0: follows height, or scale_by if both are 0.",
                    height="Height in pixels. 0: follows width, or scale_by if both are 0.",
                ),
                preset_input(DEMOFUSION, "Network rows to spend; custom unlocks the settings it decides."),
                io.Combo.Input(
                    "mode", options=[PROGRESSIVE, DIRECT], default=default(DEMOFUSION, "mode"),
                    tooltip="progressive: 2x, 3x, ... up to the target (DemoFusion). direct: at once (LSRNA).",
                ),
                *inputs.sampling(
                    steps=default(DEMOFUSION, "steps"),
                    steps_of="Steps that run at each size.",
                    default=default(DEMOFUSION, "strength"),
                    strength_of="Noise that the steps start from; lower stays closer to the reference.",
                    seed_of="Seed of the noise and of the regions' movement.",
                ),
                *inputs.added_noise(
                    flat="Direct mode with a VAE: noise added in flat areas. Paper: 0.",
                    edges="Direct mode with a VAE: noise added at edges. Paper: 1.2.",
                    most=default(DEMOFUSION, "noise_edges"),
                ),
                *inputs.regions(
                    advanced=True,
                    defaults=(default(DEMOFUSION, "overlap"), default(DEMOFUSION, "blend")),
                    overlap="Fraction of a region shared with its neighbor. Paper: 0.5.",
                    blend="Weights in the overlaps. Paper: uniform.",
                ),
                inputs.jitter(
                    "Move the regions at every step. Paper: on.",
                    advanced=True,
                ),
                *method_inputs(),
                inputs.scheduler(
                    "Noise levels of the steps. Paper: DDIM's.",
                    default(DEMOFUSION, "scheduler"),
                ),
                io.Boolean.Input(
                    "end_at_zero", default=True, advanced=True,
                    tooltip="Remove the last noise. Off: stop where the papers' code stops.",
                ),
                io.Combo.Input(
                    "size_conditioning", options=list(SIZES), default="canvas", advanced=True,
                    tooltip="Size told to SDXL: a crop of the canvas, or an image of its own (native).",
                ),
                *inputs.canny(
                    canny_low="Lower Canny threshold. Paper: 0.",
                    canny_high="Upper Canny threshold. Paper: 255.",
                ),
                inputs.regions_per_call("Regions in one network call. 0: as many as fit. The result is the same."),
                LSR.Input(
                    "lsr", optional=True,
                    tooltip="Enlarges the latent.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Direct mode: enlarges in pixels without an lsr, and finds the edges for noise.",
                ),
                inputs.jitter_until(default(DEMOFUSION, "jitter_until")),
            ],
            outputs=[
                io.Latent.Output(
                    "samples", display_name="latent",
                    tooltip="The finished large latent, for VAE Decode.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, preset=None, mode=None, steps=None, strength=None, noise_flat=None, noise_edges=None, overlap=None, blend=None, jitter=None, jitter_until=None, scheduler=None,
    ):
        def check(preset, noise_flat, **widgets):
            chosen = decided(DEMOFUSION, preset, widgets)
            if chosen["mode"] == DIRECT:
                check_strengths(noise_flat, chosen["noise_edges"])

        return verdict(
            cls, check, preset=preset, mode=mode, steps=steps, strength=strength, noise_flat=noise_flat, noise_edges=noise_edges, overlap=overlap, blend=blend,
            jitter=jitter, jitter_until=jitter_until, scheduler=scheduler,
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        reference,
        scale_by,
        width,
        height,
        preset,
        mode,
        steps,
        strength,
        cfg,
        seed,
        noise_flat,
        noise_edges,
        region_width,
        region_height,
        overlap,
        blend,
        jitter,
        skip_exponent,
        dilation_exponent,
        blur_exponent,
        blur_std,
        scheduler,
        end_at_zero,
        size_conditioning,
        canny_low,
        canny_high,
        regions_per_call,
        lsr=None,
        vae=None,
        jitter_until=None,
    ) -> io.NodeOutput:
        chosen = decided(
            DEMOFUSION, preset,
            {
                "mode": mode, "steps": steps, "strength": strength, "noise_edges": noise_edges, "overlap": overlap, "blend": blend,
                "jitter": jitter, "jitter_until": jitter_until, "scheduler": scheduler,
            },
        )
        mode, noise_edges = chosen["mode"], chosen["noise_edges"]
        check_prompts(model.model, positive=positive, negative=negative)
        samples = samples_of(reference, "reference", model)
        batch_index, noise_mask = batch_index_of(reference, "reference"), noise_mask_of(reference, "reference")
        grid = Grid.of(model.model)
        size = target_size(samples.shape[-2:], scale_by, width, height, grid.pixels_per_cell, "reference")
        sigmas = schedule(model, chosen["scheduler"], chosen["steps"], chosen["strength"], end_at_zero, highest=DEMOFUSION_RATIO)
        image = None
        if vae is not None and mode == DIRECT and (noise_flat or noise_edges):
            check_strengths(noise_flat, noise_edges)
            image = decode_float32(vae, samples)
        if lsr is None and vae is not None and mode == DIRECT:
            lsr = PixelUpscaler(vae)
        edge_noise = start_factor(levels_of(model.get_model_object("model_sampling")).ratio(float(sigmas[0])))

        def enlarge(latent, to):
            latent = resize(latent, *to) if lsr is None else lsr.upscale(latent, *to, "reference")
            if image is not None:
                latent, _ = add_region_noise(
                    model,
                    latent,
                    image.flatten(0, -4),
                    e_min=edge_noise * noise_flat,
                    e_max=edge_noise * noise_edges,
                    seed=seed,
                    canny=(canny_low, canny_high),
                    batch_index=batch_index,
                    noise_mask=noise_mask,
                )
            return latent

        regional = RegionalDenoise(
            region=(grid.cells("region_height", region_height), grid.cells("region_width", region_width)),
            overlap=chosen["overlap"],
            blend=chosen["blend"],
            jitter=chosen["jitter"],
            jitter_until=chosen["jitter_until"],
            seed=seed,
            regions_per_call=regions_per_call,
            sizes=size_conditioning,
            canvas_pixels=tuple(side * grid.pixels_per_cell for side in size),
        )
        out = sample_demofusion(
            model,
            positive,
            negative,
            samples,
            sizes=phase_sizes(tuple(samples.shape[-2:]), size, mode == PROGRESSIVE),
            sigmas=sigmas,
            cfg=cfg,
            seed=seed,
            regional=regional,
            alphas=(skip_exponent, dilation_exponent, blur_exponent),
            blur_std=blur_std,
            enlarge=enlarge,
            batch_index=batch_index,
            noise_mask=noise_mask,
        )
        if vae is not None and mode == PROGRESSIVE and (noise_flat or noise_edges):
            notice("vae is connected, but mode is progressive: no noise was added at edges (RNA). Set mode to direct for LSRNA.")
        if regional.layout_of(Canvas.of(model.model, *size)).count == 1:
            notice("There was one region only, as large as the canvas. Enlarge more, or set region_width and region_height to 0, the model's native side.")
        return io.NodeOutput(with_samples(reference, out))


NODES = [DemoFusion, DemoFusionSampler]
