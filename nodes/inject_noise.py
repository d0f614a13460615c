"""PixelRush's noise injection (Lai et al., CVPR 2026; arXiv 2602.12769)."""

from comfy_api.latest import io

from ..engine import with_parts
from ..patches.inject_noise import InjectNoise
from . import inputs
from .checks import checked


class InjectNoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeInjectNoise",
            display_name="Inject Noise",
            category="Loupe/patches",
            description=(
                "Keeps some grain in runs of one or two steps, which otherwise come out smooth: the last step swaps a "
                "small part of the noise that it removes for fresh noise. Calls no network and works with every model."
            ),
            search_aliases=["PixelRush", "noise injection", "slerp", "few steps", "one step", "grain", "texture", "oversmoothing"],
            inputs=[
                io.Model.Input("model", tooltip="The model, with any LoRA and other patches."),
                io.Float.Input(
                    "weight", default=0.05, min=0.0, max=1.0, step=0.01,
                    tooltip="Share of fresh noise. Paper: 0.05. 0 is off.",
                ),
                io.Int.Input(
                    "last_steps", default=1, min=1, max=1000, advanced=True,
                    tooltip="Steps it acts on, counted from the end. Paper: 1.",
                ),
                inputs.seed("Seed of the fresh noise."),
            ],
            outputs=[
                io.Model.Output("patched", display_name="model", tooltip="The model, for most samplers."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, weight, last_steps, seed) -> io.NodeOutput:
        return io.NodeOutput(with_parts(model, InjectNoise(weight, last_steps, seed)))


NODES = [InjectNoiseNode]
