from comfy_api.latest import ComfyExtension, io

from . import (
    attention_prior,
    clearsr,
    demofusion,
    implicit_decoder,
    latent_adjustment,
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

NODES = [node for module in (mini, lsr, region_noise, region_layout, plan, region_prompts, regional_denoise, structure_prior, attention_prior, latent_adjustment, clearsr, demofusion, pixelsmith, implicit_decoder) for node in module.NODES]


class LoupeExtension(ComfyExtension):
    async def on_load(self) -> None:
        # only a running server has routes
        from .routes import add_routes

        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
