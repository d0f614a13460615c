"""A small VAE for the latents of a family, of the class that ComfyUI makes for the real file."""

import contextlib
import functools
from unittest.mock import patch

import comfy.ldm.wan.vae
import comfy.sd
import comfy.supported_models
import families
import tiny

WIDTH = 32  # the least that group norms of 32 groups take
NARROW = {"ch": WIDTH, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def kl(channels, **settings):
    """Of images: SD's, Flux's, and with batch_norm_latent Flux.2's."""
    made = {"double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "attn_resolutions": [], "dropout": 0.0, **settings}
    return lambda: comfy.sd.AutoencoderKL(ddconfig=made, embed_dim=channels)


def narrow_kl():
    """ComfyUI makes the VAEs of images in their one width."""
    real = comfy.sd.AutoencoderKL

    def narrow(ddconfig, decoder_ddconfig=None, **settings):
        return real(ddconfig={**ddconfig, **NARROW}, **settings)

    return patch.object(comfy.sd, "AutoencoderKL", narrow)


def wan():
    return comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], temperal_downsample=[False, True, True], dropout=0.0)


def seedvr2():
    import comfy.ldm.seedvr.vae

    return comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper()


def narrow_seedvr2():
    import comfy.ldm.seedvr.vae

    return patch.object(comfy.ldm.seedvr.vae, "BYTEDANCE_BLOCK_OUT_CHANNELS", (WIDTH,) * 4)


def kind_of(family):
    """(a function that makes the network, the context in which ComfyUI makes a small one)."""
    record = families.FAMILIES[family]
    if record.config == "SeedVR2":
        return seedvr2, narrow_seedvr2
    if record.frames:
        return wan, contextlib.nullcontext
    channels = getattr(comfy.supported_models, record.config).latent_format().latent_channels
    return (kl(channels // 4, batch_norm_latent=True) if channels == 128 else kl(channels)), narrow_kl


@functools.cache
def build(family):
    make, narrow = kind_of(family)
    with narrow():
        weights = tiny.randomize(make(), seed=4).state_dict()
        return comfy.sd.VAE(sd=weights)
