from . import (
    attention_prior,
    clearsr,
    demofusion,
    estimate,
    implicit_decoder,
    latent_adjustment,
    lsr,
    mini,
    pixelsmith,
    region_layout,
    region_noise,
    region_prompts,
    regional_denoise,
    structure_prior,
)

MODULES = (
    mini,
    lsr,
    region_noise,
    region_layout,
    estimate,
    region_prompts,
    regional_denoise,
    structure_prior,
    attention_prior,
    latent_adjustment,
    clearsr,
    demofusion,
    pixelsmith,
    implicit_decoder,
)
NODES = [node for module in MODULES for node in module.NODES]
