"""Latent super-resolution (LSRNA)."""

from comfy_api.latest import io

from ..engine.latents import samples_of, target_size, with_samples
from ..models.lsr import file
from ..models.lsr.loaded import LatentUpscaler
from ..models.lsr.pixels import METHODS, PixelUpscaler
from . import inputs
from .checks import checked
from .file_inputs import file_input, file_path, fingerprint
from .types import LSR

FOLDER = "latent_upscale_models"


class LoadLSR(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadLSR",
            display_name="Load Latent Upscale Model (LSR)",
            category="Loupe/loaders",
            description="Loads a latent super-resolution network (LSR): the LSRNA authors' .pth or Loupe's .safetensors.",
            search_aliases=["LSRNA", "latent upscale model", "LIIF", "SwinIR"],
            inputs=[
                file_input("model_name", FOLDER, file, "File in models/latent_upscale_models, for your checkpoint's kind of latent."),
            ],
            outputs=[
                LSR.Output("lsr", display_name="lsr", tooltip="For Upscale Latent (LSR) and DemoFusion Sampler."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name):
        return fingerprint(FOLDER, model_name)

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        return io.NodeOutput(LatentUpscaler.from_file(file_path(FOLDER, model_name), model_name))


class UpscaleThroughPixels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeUpscaleThroughPixels",
            display_name="Upscale Through Pixels",
            category="Loupe/loaders",
            description=(
                "Enlarges latents of any model by decoding, enlarging the image, and encoding. Connect it wherever a "
                "latent SR model goes."
            ),
            search_aliases=["Lanczos", "ESRGAN", "upscale model", "latent upscale", "LSR"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the latents."),
                io.Combo.Input(
                    "method", options=list(METHODS), default=METHODS[0],
                    tooltip="How the image is brought to its exact size.",
                ),
                io.UpscaleModel.Input(
                    "upscale_model", optional=True,
                    tooltip="Enlarges the image first, for example RealESRGAN.",
                ),
            ],
            outputs=[
                LSR.Output("lsr", display_name="lsr", tooltip="For Upscale Latent (LSR) and DemoFusion Sampler."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, vae, method, upscale_model=None) -> io.NodeOutput:
        return io.NodeOutput(PixelUpscaler(vae, upscale_model, method))


class LSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLSRUpscale",
            display_name="Upscale Latent (LSR)",
            category="Loupe/latent",
            description=(
                "Enlarges a finished latent with a trained network, by any factor or to an exact size, without "
                "decoding it. For new detail put Add Noise at Edges after it and denoise again."
            ),
            search_aliases=["LSRNA", "latent super resolution", "upscale latent"],
            inputs=[
                LSR.Input("lsr", tooltip="A latent upscale model for this kind of latent."),
                io.Latent.Input(
                    "samples",
                    tooltip="Finished latent of an image or video.",
                ),
                *inputs.size(
                    scale_by="Factor for both sides, if width and height are 0.",
                    width="Width in pixels. 0: follows height, or scale_by if both are 0.",
                    height="Height in pixels. 0: follows width, or scale_by if both are 0.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "upscaled", display_name="latent",
                    tooltip="The enlarged latent, with the noise mask of the small one.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, lsr, samples, scale_by, width, height) -> io.NodeOutput:
        low = samples_of(samples, "samples")
        size = target_size(low.shape[-2:], scale_by, width, height, lsr.pixels_per_cell)
        return io.NodeOutput(with_samples(samples, lsr.upscale(low, *size)))


NODES = [LoadLSR, UpscaleThroughPixels, LSRUpscale]
