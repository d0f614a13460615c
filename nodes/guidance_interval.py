"""Guidance in a limited interval of noise levels (Kynkäänniemi et al., NeurIPS 2024)."""

from comfy_api.latest import io

from ..engine import with_parts
from ..patches.guidance_interval import GuidanceInterval, check_interval
from .checks import checked, verdict


class GuidanceIntervalNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeGuidanceInterval",
            display_name="Guidance Interval",
            category="Loupe/patches",
            description=(
                "Guides only between two noise levels. Elsewhere the positive prompt is evaluated alone, which halves "
                "the cost of those steps."
            ),
            search_aliases=["CFG", "limited interval guidance", "faster", "skip uncond"],
            inputs=[
                io.Model.Input("model", tooltip="The model, for a sampler with cfg above 1."),
                io.Float.Input(
                    "highest", default=0.4, min=0.0, max=1.0, step=0.01,
                    tooltip="Strength above which the negative prompt is skipped.",
                ),
                io.Float.Input(
                    "lowest", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Strength below which the negative prompt is skipped.",
                ),
            ],
            outputs=[io.Model.Output("patched", display_name="model", tooltip="The model, guided in the interval only.")],
        )

    @classmethod
    def validate_inputs(cls, highest=None, lowest=None):
        return verdict(cls, check_interval, highest=highest, lowest=lowest)

    @classmethod
    @checked
    def execute(cls, model, highest, lowest) -> io.NodeOutput:
        return io.NodeOutput(with_parts(model, GuidanceInterval(highest, lowest)))


NODES = [GuidanceIntervalNode]
