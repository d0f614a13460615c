"""Small networks of Loupe's own that are trained for a model: the pack is asked for its classes when they are needed,
as ComfyUI may load it later."""

import importlib

import families
import tiny

import nodes

from . import vaes


def loupe(module):
    package = nodes.NODE_CLASS_MAPPINGS["LoupeRegionalDenoise"].__module__.rpartition(".nodes.")[0]
    return importlib.import_module(f"{package}.{module}")


def clearsr(family):
    networks, loaded, files, spaces = (loupe(f"models.{name}") for name in ("clearsr.network", "clearsr.loaded", "files", "latent_space"))
    model = families.build(family).model
    unet = model.model_config.unet_config
    config = networks.Config(
        model_channels=unet["model_channels"], channel_mult=tuple(unet["channel_mult"]), num_res_blocks=tuple(unet["num_res_blocks"]),
        transformer_depth=tuple(unet["transformer_depth"]), context_dim=unet["context_dim"], head_channels=16, use_linear=unet["use_linear_in_transformer"], window=8,
    )
    network = tiny.randomize(networks.ClearSR(config), 2).eval()
    network.loras = {"unet": {}, "vae": {}}
    latents = spaces.LatentSpace(type(model.latent_format).__name__, 4)
    return loaded.ClearSRControl(network, files.Metadata(latents, family), family)


def implicit_decoder(family):
    networks, loaded = loupe("models.implicit_decoder.network"), loupe("models.implicit_decoder.loaded")
    return loaded.LoadedDecoder(networks.HybridDecoder.of(vaes.build(family).first_stage_model, (32,)).eval(), family)
