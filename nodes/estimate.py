"""What a run will take, before it begins."""

import comfy.model_management
from comfy_api.latest import io, ui

from ..engine.conditioning import check_prompts
from ..engine.estimate import layout, planned
from ..engine.latents import as_sampled
from ..engine.preview import draw
from . import inputs
from .checks import checked
from .preset_rows import preset_rows


class PlanNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupePlan",
            display_name="Estimate Run",
            category="Loupe/regions",
            description=(
                "Counts what a run with Loupe's patches on this model will take: regions, network rows, memory and, "
                "if asked, time. A network row is one image and one guidance branch in one network evaluation; rows = "
                "steps x evaluations_per_step x images of the batch x (guidance branches x (regions + dilation "
                "squared) + 1 for the Attention Prior). Prompts combined in a branch count each. Runs on its own, "
                "without sampling."
            ),
            search_aliases=["estimate", "time", "memory", "VRAM", "cost"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model as it goes to the sampler.",
                ),
                io.Latent.Input("samples", tooltip="The latent that will be sampled; its content is not used."),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Steps that the sampler will run."),
                inputs.cfg(
                    "The sampler's CFG. 1 halves the network rows.",
                ),
                io.Int.Input(
                    "evaluations_per_step", default=1, min=1, max=8, advanced=True,
                    tooltip="Model calls in a step: 1 for euler and most samplers, 2 for heun.",
                ),
                io.Boolean.Input(
                    "measure_time", default=False,
                    tooltip="Time a network call of each kind. Needs positive.",
                ),
                io.Conditioning.Input("positive", optional=True, tooltip="Prompt to measure with, as for the sampler."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The plan, a line for each figure."),
                io.Image.Output(
                    "preview", display_name="preview",
                    tooltip="The regions: brighter where more overlap.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, samples, steps, cfg, evaluations_per_step, measure_time, positive=None) -> io.NodeOutput:
        if measure_time and positive is None:
            raise ValueError(
                "measure_time is on, but positive is not connected. "
                "Connect the sampler's positive prompt, or switch measure_time off."
            )
        if measure_time:
            check_prompts(model.model, positive=positive)
        shape = as_sampled(samples, "samples", model).shape
        regions = layout(model, *shape[-2:])
        plan = planned(
            model,
            shape,
            evaluations=steps * evaluations_per_step,
            branches=1 if cfg == 1.0 else 2,
            positive=positive if measure_time else None,
        )
        lines = plan.lines(regions, model.get_model_object("latent_format").spacial_downscale_ratio)
        for sampler, presets in preset_rows(model, *shape[-2:], plan.branches, shape[0]).items():
            lines.append(f"Presets of {sampler} at this size: " + ", ".join(f"{name} {rows:,}" for name, rows in presets.items()) + " rows")
        text = "\n".join(lines)
        preview = draw(regions).to(comfy.model_management.intermediate_device())
        shown = {**ui.PreviewText(text).as_dict(), **ui.PreviewImage(preview, cls=cls).as_dict()}
        return io.NodeOutput(text, preview, ui=shown)


NODES = [PlanNode]
