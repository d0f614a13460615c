"""What a run will take, before it begins."""

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io, ui

from ..engine.estimate import layout, measure, plan, works
from ..engine.latents import as_sampled, samples_of
from .region_layout import draw


class PlanNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupePlan",
            display_name="Plan",
            category="Loupe/regions",
            description="Counts what a run with Loupe's patches on this model will take: regions, network rows, memory and, if asked, time. A network row is one image and one guidance branch in one network evaluation; rows = steps x evaluations_per_step x images of the batch x (guidance branches x (regions + dilation squared) + 1 for the Attention Prior). Prompts combined in a branch count each. Runs on its own, without sampling.",
            search_aliases=["estimate", "time", "memory", "VRAM", "cost"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as it goes to the sampler, with Regional Denoise, DemoFusion and other patches."),
                io.Latent.Input("samples", tooltip="The latent that will be sampled; its content is not used."),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Steps that the sampler will run."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance scale of the sampler. 1 leaves out the negative prompt: one guidance branch instead of two."),
                io.Int.Input("evaluations_per_step", default=1, min=1, max=8, advanced=True, tooltip="How often the sampler asks the model in each step: 1 for euler, dpmpp_2m and most, 2 for heun, dpm_2 and dpmpp_sde."),
                io.Boolean.Input("measure", default=False, tooltip="Load the model and time a network call of each kind, for an estimate of the whole run. Needs positive."),
                io.Conditioning.Input("positive", optional=True, tooltip="Prompt to measure with, as for the sampler."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The plan, a line for each figure."),
                io.Image.Output("preview", display_name="preview", tooltip="The regions: brighter where more overlap, outlines in colour."),
            ],
        )

    @classmethod
    def execute(cls, model, samples, steps, cfg, evaluations_per_step, measure, positive=None) -> io.NodeOutput:
        shape = samples_of(as_sampled(samples, model), "samples", model).shape
        regions = layout(model, *shape[-2:])
        text = "\n".join(planned(model, shape, steps * evaluations_per_step, cfg, measure, positive).lines(regions, model.get_model_object("latent_format").spacial_downscale_ratio))
        picture = draw(regions).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(text, picture, ui={**ui.PreviewText(text).as_dict(), **ui.PreviewImage(picture, cls=cls).as_dict()})


def planned(model, shape, evaluations, cfg, timed, positive):
    if timed and positive is None:
        raise ValueError("measure is on, but positive is not connected. Connect the sampler's positive prompt, or switch measure off.")
    out = plan(model, shape, works(model, *shape[-2:], evaluations), 1 if cfg == 1.0 else 2)
    return replace(out, seconds=measure(model, out, positive)) if timed else out


NODES = [PlanNode]
