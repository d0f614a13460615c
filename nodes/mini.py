"""The bundled mini world."""

from comfy_api.latest import io

from ..models.mini import loaded as mini
from .checks import checked


class LoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadMini",
            display_name="Load Mini World",
            category="Loupe/loaders",
            description=(
                "A small trained model that ships with Loupe: colored shapes on textured grounds at 128 x 128. It makes "
                "every workflow run in seconds on a CPU. Prompts look like: red star top left, blue house bottom "
                "right, on grass."
            ),
            search_aliases=["loupe", "mini", "test model", "demo"],
            inputs=[
                io.Combo.Input(
                    "variant", options=list(mini.VARIANTS), default="text to image", optional=True,
                    tooltip="flow is a Z-Image kind of model for 20 steps; in few steps: 4 to 8 at CFG 1.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The denoiser; native size 128 x 128 pixels.",
                ),
                io.Clip.Output(display_name="clip", tooltip="The text encoder for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="Factor 8, 4 channels."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, variant="text to image") -> io.NodeOutput:
        made = mini.VARIANTS[variant]
        return io.NodeOutput(made.model(), made.clip(), mini.load_vae())


NODES = [LoadMini]
