from comfy_api.latest import ComfyExtension, io

from . import (
    attention_prior,
    demofusion,
    lsr,
    mini,
    pixelsmith,
    plan,
    region_layout,
    region_noise,
    region_prompts,
    regional_denoise,
    structure_prior,
)

NODES = [node for module in (mini, lsr, region_noise, region_layout, plan, region_prompts, regional_denoise, structure_prior, attention_prior, demofusion, pixelsmith) for node in module.NODES]


class LoupeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
