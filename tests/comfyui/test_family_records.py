"""The table of model families against ComfyUI's own classes."""

import types

import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import pytest
import tiny
import torch
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel
from loupe.engine.families import FAMILIES, GENERIC, family_of
from loupe.models.mini import loaded as mini

OWN = {"MiniWorld": mini.MiniWorld, "MiniArbitrary": mini.MiniArbitrary}
CONFIGS = {name: made for name, made in vars(comfy.supported_models).items() if isinstance(made, type) and issubclass(made, comfy.supported_models_base.BASE)}
ATTENTION = {UNetModel: "unet", PixArtMS: "cross_attn", MiniTrainDIT: "cross_attn", WanModel: "cross_attn"}
POSITIONS = {Flux: "post_input", QwenImageTransformer2DModel: "post_input_centered", NextDiT: "rope_options", WanModel: "relative", MiniTrainDIT: "relative"}
LATER_POSITIONS = {"Krea2": "post_input", "MageFlow": "post_input_halved", "ErnieImage": "rope_options", "PixelDiTT2I": "rope_options_stretched", "Kandinsky5Image": "relative"}  # by class, also those of later versions
SIZES = {comfy.model_base.SDXL: "sdxl", comfy.model_base.SDXLRefiner: "refiner", comfy.model_base.PixArt: "pixart", comfy.model_base.HunyuanDiT: "hunyuan_dit"}


class Built(Exception):
    """Stops a model before its network is made."""


def built(config):
    """(class of the model, class of its network) that ComfyUI makes for `config`, a class of configurations."""

    def init(self, model_config, model_type=None, device=None, unet_model=UNetModel):
        raise Built(type(self), unet_model)

    conf = config.__new__(config)
    conf.unet_config, conf.latent_format = {**config.unet_config, "in_channels": 4}, config.latent_format()
    weights = {f"cc_projection.{name}": torch.zeros(1) for name in ("weight", "bias")}  # Zero123's
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Built) as found:
        patch.setattr(comfy.model_base.BaseModel, "__init__", init)
        conf.get_model(weights, "")
    return found.value.args


def model_of(config, network):
    return types.SimpleNamespace(model_config=config.__new__(config), diffusion_model=network.__new__(network))


def known(table, made):
    return next((value for base, value in table.items() if issubclass(made, base)), None)


@pytest.mark.parametrize(("family", "config"), [(family, config) for family in FAMILIES for config in family.configs])
def test_records_name_the_network_that_comfyui_makes(family, config):
    made = {**CONFIGS, **OWN}.get(config)
    if made is None:
        pytest.skip("of a later version")
    _, network = built(made)
    assert family_of(model_of(made, network)) is family


@pytest.mark.parametrize("config", CONFIGS)
def test_all_models_of_one_network_are_told_alike(config):
    """Also those that have no record of their own, and derive from a class that has one."""
    model, network = built(CONFIGS[config])
    family = family_of(model_of(CONFIGS[config], network))
    positions = LATER_POSITIONS.get(config) or known(POSITIONS, network)
    assert (family.attention, family.positions, family.sizes) == (known(ATTENTION, network), positions, known(SIZES, model))


def test_a_model_without_a_record_is_generic():
    assert family_of(None) == family_of(types.SimpleNamespace()) == GENERIC
    assert GENERIC.native == 1024 and not any((GENERIC.sizes, GENERIC.positions, GENERIC.attention, GENERIC.crops, GENERIC.multiple, GENERIC.rebuilt, GENERIC.uncut))


def test_the_most_derived_record_counts():
    names = [family_of(model_of(CONFIGS[config], object)).name for config in ("WAN21_T2V", "WAN21_I2V", "WAN22_T2V", "ZImage")]
    assert names == ["Wan 2.1, 2.2", "Wan 2.1, 2.2", "Wan 2.2 5B", "Z-Image"]


def test_another_network_in_a_model_s_place_is_told_its_sizes_only():
    model = tiny.sdxl().model
    assert family_of(model).name == "SDXL"
    other = family_of(model, torch.nn.Identity())
    assert (other.sizes, other.native, other.attention, other.positions) == ("sdxl", 1024, None, None)


def test_the_mini_world_has_a_native_size_of_its_own():
    assert [family_of(load().model).native for load in (mini.load_model, mini.load_arbitrary, mini.load_flow, mini.load_few_steps)] == [128, 256, 128, 128]
