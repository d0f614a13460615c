"""The bundled mini world."""

from comfy_api.latest import io

from ..models.mini import loaded as mini
from .checks import checked

VARIANTS = {"text to image": mini.load_model, "arbitrary scale": mini.load_arbitrary}


class LoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadMini",
            display_name="Load Mini World",
            category="Loupe/loaders",
            description=(
                "A small trained SDXL-family model that ships with Loupe: coloured shapes on textured grounds at 128 "
                "x 128. It makes every workflow run in seconds on a CPU. Prompts look like: red star top left, blue "
                "house bottom right, on grass."
            ),
            search_aliases=["loupe", "mini", "test model", "demo"],
            inputs=[
                io.Combo.Input(
                    "variant", options=list(VARIANTS), default="text to image", optional=True,
                    tooltip=(
                        "text to image: draws from noise, native size 128 x 128. arbitrary scale: also sees the "
                        "low-resolution picture that InstructPixToPixConditioning puts into the conditioning, and "
                        "draws its 256 x 256 version for Implicit Decode."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip=(
                        "An SDXL-type denoiser, native size 128 x 128 pixels (16 x 16 latent cells); for arbitrary "
                        "scale 256 x 256."
                    ),
                ),
                io.Clip.Output(display_name="clip", tooltip="The text encoder for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="Factor 8, 4 channels."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, variant="text to image") -> io.NodeOutput:
        return io.NodeOutput(VARIANTS[variant](), mini.load_clip(), mini.load_vae())


NODES = [LoadMini]
