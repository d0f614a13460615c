"""The bundled mini world."""

from comfy_api.latest import io

from ..host import mini


class LoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadMini",
            display_name="Load Mini World",
            category="Loupe/loaders",
            description="A small trained SDXL-family model that ships with Loupe: coloured shapes on textured grounds at 128 x 128. It makes every workflow run in seconds on a CPU. "
                        "Prompts look like: red star top left, blue house bottom right, on grass.",
            search_aliases=["loupe", "mini", "test model", "demo"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="An SDXL-type denoiser, native size 128 x 128 pixels (16 x 16 latent cells)."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="Factor 8, 4 channels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(mini.load_model(), mini.load_clip(), mini.load_vae())


NODES = [LoadMini]
