"""The nodes of the one-dial graph that upscales an image."""

import comfy.samplers
from comfy_api.latest import io
from comfy_extras.nodes_sd3 import ControlNetApplySD3

from ..engine.sigmas import schedule
from ..methods.creativity import PRESETS, alpha, settings
from ..models.lsr.pixels import encode_each, enlarge
from .checks import checked, rgb
from .types import LSR


class EnlargeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeEnlargeImage",
            display_name="Enlarge Image",
            category="Loupe/latent",
            description=(
                "Turns an image into the large latent that Regional Denoise redraws: enlarged with Lanczos, by an "
                "upscale model, or as a latent by a latent SR model."
            ),
            search_aliases=["upscale", "upscale image", "hires fix", "4k", "8k", "img2img", "Lanczos", "ESRGAN", "LSR"],
            inputs=[
                io.Image.Input("image", tooltip="Any size; one image or several."),
                io.Vae.Input("vae", tooltip="The VAE of the model that redraws it."),
                io.Float.Input("scale_by", default=2.0, min=1.0, max=16.0, step=0.01, tooltip="Factor for both sides."),
                io.UpscaleModel.Input("upscale_model", optional=True, tooltip="Enlarges the image, for example RealESRGAN."),
                LSR.Input("lsr", optional=True, tooltip="Enlarges the latent instead of the pixels."),
            ],
            outputs=[
                io.Latent.Output("enlarged", display_name="latent", tooltip="The canvas that is sampled."),
                io.Latent.Output("reference", display_name="reference", tooltip="The image at its own size, for the priors."),
                io.Image.Output("image_enlarged", display_name="image", tooltip="The enlarged image, for a ControlNet or to compare."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image, vae, scale_by, upscale_model=None, lsr=None) -> io.NodeOutput:
        cell = vae.spacial_compression_encode()
        image = rgb(image, "image", cell)
        height, width = (max(int(side * scale_by) // cell, 1) for side in image.shape[1:3])
        reference = encode_each(vae, image)
        large = enlarge(image, width * cell, height * cell, upscale_model)
        canvas = encode_each(vae, large) if lsr is None else lsr.upscale(reference, height, width, "image")
        return io.NodeOutput({"samples": canvas}, {"samples": reference}, large)


class Creativity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeCreativity",
            display_name="Creativity",
            category="Loupe/samplers",
            description=(
                "One dial between keeping an image and inventing detail in it: where the denoise starts and how "
                "firmly the priors hold it. It means the same on every model."
            ),
            search_aliases=["denoise", "strength", "detail", "hires fix", "fidelity", "upscale image", "img2img"],
            inputs=[
                io.Model.Input("model", tooltip="The model that is sampled, with its shift already set."),
                io.Float.Input(
                    "creativity", default=0.35, min=0.0, max=1.0, step=0.01, display_mode=io.NumberDisplay.slider,
                    tooltip="0 keeps the image; 1 keeps only its composition.",
                ),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default=next(iter(PRESETS)),
                    tooltip="Steps: fast 4 (few-step models), balanced 8, thorough 20.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", advanced=True,
                    tooltip="How the steps are spread over the noise levels.",
                ),
            ],
            outputs=[
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="Noise levels for Sampler Custom."),
                io.Float.Output("structure", display_name="structure", tooltip="Weight for Structure Prior, mode kappa."),
                io.Float.Output("fidelity", display_name="fidelity", tooltip="Alpha for Latent Adjustment (preset custom)."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, creativity, preset, scheduler) -> io.NodeOutput:
        strength, structure, fidelity = settings(creativity)
        steps = PRESETS[preset]
        return io.NodeOutput(schedule(model, scheduler, steps, strength), structure, alpha(fidelity, steps))


class OptionalControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeOptionalControlNet",
            display_name="Apply ControlNet If Connected",
            category="Loupe/patches",
            description="Apply ControlNet for graphs in which the ControlNet may be left out: without one, nothing changes.",
            search_aliases=["tile ControlNet", "optional ControlNet"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Image.Input("image", tooltip="What the ControlNet sees: the enlarged image for a tile ControlNet."),
                io.Float.Input("strength", default=0.6, min=0.0, max=10.0, step=0.01, tooltip="How firmly the ControlNet holds the image."),
                io.Float.Input("end_percent", default=0.8, min=0.0, max=1.0, step=0.01, advanced=True, tooltip="Share of the whole schedule after which it lets go."),
                io.ControlNet.Input("control_net", optional=True, tooltip="A tile ControlNet for the model."),
                io.Vae.Input("vae", optional=True, tooltip="For ControlNets that see latents."),
            ],
            outputs=[
                io.Conditioning.Output("positive_held", display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output("negative_held", display_name="negative", tooltip="For the sampler."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, positive, negative, image, strength, end_percent, control_net=None, vae=None) -> io.NodeOutput:
        if control_net is None:
            return io.NodeOutput(positive, negative)
        return ControlNetApplySD3.execute(positive, negative, control_net, rgb(image, "image"), strength, 0.0, end_percent, vae)


NODES = [EnlargeImage, Creativity, OptionalControlNet]
