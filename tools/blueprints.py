"""Blueprints: whole methods as one node, subgraphs/*.json, made from workflows/api/*.json.

To add one, write an entry in BLUEPRINTS and run `python dev.py templates WORKFLOW`.
"""

import json

from .graph import saved
from .server import PACK
from .subgraph import Fold, make_node, make_subgraph

SUBGRAPHS = PACK / "subgraphs"

BLUEPRINTS = {
    "Restore Image, ClearSR (Loupe)": Fold(
        "clearsr_sd21",
        "Restores a low-quality image and enlarges it with ClearSR: control networks that look at its latent, region by region, and Latent Adjustment between fidelity and detail.",
        ["ClearSR", "ControlSR", "super resolution", "denoise", "deblur", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Empty prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "clearsr": ("Load ClearSR", "control_net_name"),
            "scale_by": ("Enlarge to 4x", "scale_by"),
            "strength": ("Apply ClearSR", "strength"),
            "region_width": ("Regional Denoise", "region_width"),
            "region_height": ("Regional Denoise", "region_height"),
            "adjustment": ("Latent Adjustment (LSA)", "preset"),
            **{name: ("Restore", name) for name in ("steps", "cfg", "seed")},
        },
        {"image": ("Decode the result", 0), "latent": ("Restore", 0)},
    ),
    "Upscale Image in Tiles, C-Upscale (Loupe)": Fold(
        "cupscale_captions_sdxl",
        "Enlarges an image region by region with C-Upscale: structure and attention of the whole image steer every region, which may have a prompt of its own, typed or written by a vision-language model.",
        ["C-Upscale", "GSP", "RAP", "RSP", "tiled upscale", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "clip": ("Load Checkpoint", 1), "vae": ("Load Checkpoint", 2),
            "positive": ("What the image shows", 0), "negative": ("Negative prompt", 0),
            "captioner": ("Load Captioner", 0),
        },
        {
            "native_megapixels": ("Native area", "megapixels"),
            "scale_by": ("Enlarge", "scale_by"),
            "region_width": ("Region Layout", "region_width"),
            "region_height": ("Region Layout", "region_height"),
            "overlap": ("Region Layout", "overlap"),
            "prompts": ("Region Prompts (RSP)", "prompts"),
            "caption_regions": ("Region Prompts (RSP)", "use_captions"),
            "structure": ("Structure Prior (GSP)", "weight"),
            "steps": ("Draw with C-Upscale", "steps"),
            "start_at_step": ("Draw with C-Upscale", "start_at_step"),
            "cfg": ("Draw with C-Upscale", "cfg"),
            "seed": ("Draw with C-Upscale", "noise_seed"),
        },
        {"image": ("Decode C-Upscale", 0)},
        values={"caption_regions": False},
    ),
    "Upscale Latent in Tiles, LSRNA-DemoFusion (Loupe)": Fold(
        "lsrna_demofusion_sdxl",
        "Enlarges a finished latent with LSRNA-DemoFusion: a super-resolution network for latents, and the last steps drawn again region by region.",
        ["LSRNA", "DemoFusion", "latent upscale", "Loupe"],
        {
            "latent": ("Draw the reference", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "lsr_model": ("Load Latent Upscale Model (LSR)", "model_name"),
            **{name: ("DemoFusion Sampler", name) for name in ("scale_by", "preset", "region_width", "region_height", "cfg", "seed")},
        },
        {"image": ("Decode", 0), "latent": ("DemoFusion Sampler", 0)},
    ),
    "Upscale Image in Tiles (Loupe)": Fold(
        "upscale_sdxl",
        "Enlarges an image with any model, region by region, with one dial between keeping it and inventing detail. An upscale model, a latent SR model and a tile ControlNet may be connected.",
        ["upscale", "tiled upscale", "Ultimate SD Upscale", "tile ControlNet", "creative upscale", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("What the image shows", 0), "negative": ("Negative prompt", 0),
        },
        {
            "scale_by": ("Enlarge Image", "scale_by"),
            "creativity": ("Creativity", "creativity"),
            "preset": ("Creativity", "preset"),
            "scheduler": ("Creativity", "scheduler"),
            "sampler_name": ("Sampler", "sampler_name"),
            "cfg": ("Draw", "cfg"),
            "seed": ("Draw", "noise_seed"),
        },
        {"image": ("Decode the result", 0)},
        {
            "upscale_model": ("Enlarge Image", "upscale_model"),
            "lsr": ("Enlarge Image", "lsr"),
            "control_net": ("Apply ControlNet If Connected", "control_net"),
        },
        {"preset": "balanced", "scheduler": "simple", "sampler_name": "euler"},
    ),
    "Upscale Image in Tiles, PixelSmith (Loupe)": Fold(
        "pixelsmith_sdxl",
        "Enlarges an image with PixelSmith: it is drawn again patch by patch, held to the structure of the small one for the first steps. Use it again on its own result for larger images.",
        ["PixelSmith", "patch upscale", "Loupe"],
        {
            "image": ("Decode the reference", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "scale_by": ("Enlarge to 2x", "scale_by"),
            **{name: ("PixelSmith Sampler, 2x", name) for name in ("preset", "patch_size", "guided_until", "cfg", "seed")},
        },
        {"image": ("Decode 2x", 0), "latent": ("PixelSmith Sampler, 2x", 0)},
    ),
}


def make_blueprint(name, fold, workflow, info, frontend):
    """The blueprint as the page saves a published subgraph: one node, and what is behind it.

    workflow: API format. info: `definitions_of` the server. frontend: its version.
    """
    subgraph = make_subgraph(name, fold, workflow, info)
    node = make_node(name, fold, subgraph, subgraph["state"]["lastNodeId"] + 1)
    return saved(f"blueprint {name}", [node], [], [], frontend, [subgraph])


def make_all(workflows, names, info, frontend):
    """Write the blueprints of the workflows `names`; yields their files."""
    SUBGRAPHS.mkdir(exist_ok=True)
    for name, fold in BLUEPRINTS.items():
        if fold.workflow in names:
            file = SUBGRAPHS / f"{name}.json"
            file.write_text(json.dumps(make_blueprint(name, fold, workflows[fold.workflow], info, frontend), indent=2) + "\n", encoding="utf-8")
            yield file
