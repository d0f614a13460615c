"""Decoding a latent to an image of any size."""

import os

from comfy_api.latest import io

from ..engine.latents import samples_of
from ..models.implicit_decoder import file
from ..models.implicit_decoder.loaded import AnyScale, LoadedDecoder
from . import inputs
from .checks import checked
from .file_inputs import file_input, file_path, fingerprint
from .types import ImplicitDecoder

FOLDER = "vae_approx"
TINY_VAES = ("tae", "lighttae")  # what else lives in the folder, by the names that ComfyUI goes by


def no_tiny_vae(name: str) -> bool:
    return not os.path.basename(name).startswith(TINY_VAES)


class LoadImplicitDecoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadImplicitDecoder",
            display_name="Load Any-Size Decoder",
            category="Loupe/loaders",
            description="Loads an implicit decoder, which turns a latent into an image of any size: one trained on your VAE with Loupe, or the authors' autoencoder checkpoint.",
            search_aliases=["LIIF", "arbitrary scale", "neural decoder", "IND"],
            inputs=[
                file_input("model_name", FOLDER, file, "File in models/vae_approx, for the VAE it was trained on.", offered=no_tiny_vae),
            ],
            outputs=[
                ImplicitDecoder.Output("decoder", display_name="decoder", tooltip="For VAE Decode (Any Size)."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name):
        return fingerprint(FOLDER, model_name)

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        return io.NodeOutput(LoadedDecoder.from_file(file_path(FOLDER, model_name), model_name))


class ImplicitDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeImplicitDecode",
            display_name="VAE Decode (Any Size)",
            category="Loupe/latent",
            description=(
                "Decodes a latent to an image of any size, from a quarter to sixteen times what VAE Decode gives. "
                "The latent is decoded once; the image is then drawn from its features a few rows at a time, so "
                "that memory does not grow with it."
            ),
            search_aliases=["arbitrary scale", "VAE decode", "upscale", "LIIF", "any size"],
            inputs=[
                io.Latent.Input("samples", tooltip="Finished (noise-free) latent of images."),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="The VAE of the latent; not needed with the authors' decoder.",
                ),
                ImplicitDecoder.Input(
                    "decoder", optional=True,
                    tooltip="A decoder trained on this VAE. Without one: a bicubic resize.",
                ),
                *inputs.size(
                    least=0.25,
                    step=None,
                    scale_by="Factor for both sides, if width and height are 0.",
                    width="Exact width in pixels. 0: follows height, or scale_by if both are 0.",
                    height="Exact height in pixels. 0: follows width, or scale_by if both are 0.",
                ),
                io.Int.Input(
                    "tile_size", default=1024, min=0, max=8192, step=64, advanced=True,
                    tooltip="Largest tile in pixels; lower saves memory. 0: never tile.",
                ),
                io.Int.Input(
                    "overlap", default=256, min=0, max=4096, step=32, advanced=True,
                    tooltip="Pixels that neighboring tiles share.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The images, at exactly the size asked for."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, samples, scale_by, width, height, tile_size, overlap, vae=None, decoder=None) -> io.NodeOutput:
        latent = samples_of(samples, "samples")
        if latent.ndim == 5:
            if latent.shape[2] != 1:
                raise ValueError(
                    f"samples is a video of {latent.shape[2]} latent frames; VAE Decode (Any Size) makes images. "
                    "Take single frames, or use VAE Decode."
                )
            latent = latent[:, :, 0]
        any_scale = AnyScale(vae, decoder)
        size = any_scale.target_size(*latent.shape[-2:], scale_by, width, height)
        tile = tile_size // any_scale.factor
        if not tile:
            tile = max(latent.shape[-2:])
        return io.NodeOutput(any_scale.decode(latent, *size, tile, min(overlap // any_scale.factor, tile // 2)))


NODES = [LoadImplicitDecoder, ImplicitDecode]
