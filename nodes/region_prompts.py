"""Prompts of regions (C-Upscale's RSP; Qian et al., IJCV 2025): crops, captions, conditioning."""

import os

import folder_paths
from comfy_api.latest import io, ui

from ..engine.conditioning import check_prompts
from ..methods.region_prompts import (
    INSTRUCTION,
    fill_prompts,
    format_prompts,
    parse_prompts,
)
from ..methods.region_prompts import instruction as ask
from ..models.captioner import caption_with_clip, caption_with_folder, captions
from ..patches.region_prompts import crops_of, encode_regions
from .checks import check_image, checked, rgb, verdict
from .types import Regions

FOLDER = "LLM"
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
CONNECTED = "connected clip"


def captioners() -> dict[str, str]:
    """Folders of `transformers` models: name -> path."""
    found = {}
    for root in folder_paths.get_folder_paths(FOLDER):
        for path, folders, files in os.walk(root):
            if "config.json" in files:
                found.setdefault(os.path.relpath(path, root), path)
                folders.clear()
    return dict(sorted(found.items()))


class RegionCrops(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionCrops",
            display_name="Split Image into Regions",
            category="Loupe/regions",
            description=(
                "Cuts an image into the regions of a layout, as a list in row-major order: to look at them, or to "
                "caption them with any node."
            ),
            search_aliases=["C-Upscale", "tile", "tiles", "split image"],
            inputs=[
                io.Image.Input("image", tooltip="The image that is being enlarged, at any resolution."),
                Regions.Input("regions", tooltip="From Region Layout."),
            ],
            outputs=[
                io.Image.Output(
                    "crops", display_name="crops", is_output_list=True,
                    tooltip="One image a region, all of one size.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image, regions) -> io.NodeOutput:
        check_image(image, "image")
        return io.NodeOutput(crops_of(image, regions))


class CaptionRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeCaptionRegions",
            display_name="Caption Regions",
            category="Loupe/regions",
            description=(
                "Lets a vision-language model describe each region of an image, for Region Prompts. The output is a JSON "
                "list that can also be pasted there and edited. Deterministic."
            ),
            search_aliases=["C-Upscale", "RSP", "VLM", "LLaVA", "Qwen", "describe image", "interrogate"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The image that is enlarged, before or after enlarging.",
                ),
                Regions.Input("regions", tooltip="From Region Layout."),
                io.String.Input(
                    "global_prompt", multiline=True, default="",
                    tooltip="What the whole image shows; context for each crop.",
                ),
                io.Combo.Input(
                    "model", options=[CONNECTED, *captioners()], default=CONNECTED,
                    tooltip="Folder in models/LLM with an image-to-text model, or the connected clip.",
                ),
                io.String.Input(
                    "instruction", multiline=True, default=INSTRUCTION, advanced=True,
                    tooltip="Question about each crop; {prompt} is the global prompt.",
                ),
                io.Int.Input(
                    "max_tokens", default=90, min=8, max=1024, advanced=True,
                    tooltip="Longest answer, in the model's tokens.",
                ),
                io.Int.Input(
                    "crops_per_call", default=1, min=1, max=64, advanced=True,
                    tooltip="Crops in one call, for a model from a folder.",
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="A vision-language model from Load CLIP, such as Qwen3-VL or Gemma 3.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompts", display_name="prompts",
                    tooltip="JSON list, one entry a region, for Region Prompts.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image,
        regions,
        global_prompt,
        model,
        instruction,
        max_tokens,
        crops_per_call,
        clip=None,
    ) -> io.NodeOutput:
        if model == CONNECTED and clip is None:
            raise ValueError(
                "model is 'connected clip', but clip is not connected. "
                "Connect a vision-language model, or choose a folder in models/LLM."
            )
        crops = crops_of(rgb(image, "image")[:1], regions)
        question = ask(global_prompt, instruction)
        if model == CONNECTED:
            answers = caption_with_clip(clip, crops, question, max_tokens)
        else:
            answers = caption_with_folder(captioners()[model], model, crops, question, max_tokens, crops_per_call)
        prompts = format_prompts(captions(answers, len(crops)))
        return io.NodeOutput(prompts, ui=ui.PreviewText(prompts))


class RegionPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeRegionPrompts",
            display_name="Region Prompts (RSP)",
            category="Loupe/regions",
            description=(
                "Gives every region a prompt of its own. Regional Denoise then shows each region only its prompt; "
                "other samplers mix the prompts by region masks."
            ),
            search_aliases=["C-Upscale", "RSP", "regional prompting", "regional conditioning"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that draws."),
                Regions.Input("regions", tooltip="From Region Layout; Regional Denoise should get the same."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="Prompt of the whole image, also for regions without one.",
                ),
                io.String.Input(
                    "prompts", multiline=True, default="",
                    tooltip="One line per region, row by row, or JSON; empty lines use the whole prompt.",
                ),
                io.Int.Input(
                    "max_tokens", default=75, min=0, max=1024, advanced=True,
                    tooltip="Longest prompt in tokens: 75 for CLIP, 120 for PixArt. 0: no limit.",
                ),
                io.String.Input(
                    "captions", optional=True, force_input=True, lazy=True,
                    tooltip="From Caption Regions: prompts of regions left empty here.",
                ),
                io.Boolean.Input(
                    "use_captions", default=True, optional=True, advanced=True,
                    tooltip="Off: the captions are neither used nor made.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="conditioning",
                    tooltip="Positive conditioning for the sampler.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompts=None):
        return verdict(cls, lambda prompts: parse_prompts(prompts, None), prompts=prompts)

    @classmethod
    def check_lazy_status(cls, regions, prompts, use_captions=True, **others):
        """Captions are made where they are connected, not made yet, and a region is left to them."""
        waiting = "captions" in others and others["captions"] is None
        return ["captions"] if waiting and use_captions and not all(parse_prompts(prompts, regions.count)) else []

    @classmethod
    @checked
    def execute(
        cls, clip, regions, conditioning, prompts, max_tokens, captions=None, use_captions=True,
    ) -> io.NodeOutput:
        check_prompts(None, conditioning=conditioning)
        texts = parse_prompts(prompts, regions.count)
        if use_captions and captions:
            texts = fill_prompts(texts, captions)
        if not any(texts):
            return io.NodeOutput(conditioning)
        return io.NodeOutput(encode_regions(clip, texts, regions, conditioning, max_tokens))


NODES = [RegionCrops, CaptionRegions, RegionPrompts]
