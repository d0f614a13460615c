"""Small files under the names that workflows have, for loaders that take files of any size."""

from pathlib import Path

import safetensors.torch
import torch

BUNDLED = Path(__file__).resolve().parents[2] / "models" / "mini"
LAYERS = {"time_embed.0": (128, 32), "img_in": (64, 64)}  # of the tiny SDXL and Qwen-Image: features out, in


def lora(path):
    """Of one layer of each network; a model takes what it has."""
    generator = torch.Generator().manual_seed(6)
    sides = {f"diffusion_model.{layer}.{side}.weight": shape for layer, (out, given) in LAYERS.items() for side, shape in (("lora_A", (1, given)), ("lora_B", (out, 1)))}
    safetensors.torch.save_file({name: torch.randn(shape, generator=generator) * 0.1 for name, shape in sides.items()}, path)


def upscaler(path):
    """ESRGAN of one block, 4x."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(6)
    torch.save(RRDBNet(num_filters=8, num_blocks=1, scale=4).state_dict(), path)


def lsr(path):
    """In the layout of the published file."""
    torch.save(safetensors.torch.load_file(BUNDLED / "mini_lsr.safetensors"), path)


# the node that loads it: the folder, and what writes it
WRITERS = {
    "LoraLoaderModelOnly": ("loras", lora),
    "UpscaleModelLoader": ("upscale_models", upscaler),
    "LoupeLoadLSR": ("latent_upscale_models", lsr),
}


def write(models, workflows):
    """Every file that `workflows` name, below the folder `models`."""
    for workflow in workflows:
        for node in workflow.values():
            if node["class_type"] in WRITERS:
                folder, make = WRITERS[node["class_type"]]
                (name,) = [value for key, value in node["inputs"].items() if key.endswith("_name")]
                (models / folder).mkdir(parents=True, exist_ok=True)
                make(models / folder / name)
