"""A small ControlNet for the UNets of a family."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import families
import tiny
import torch


def build(family):
    config = families.build(family).model.model_config
    of_unet = {key: value for key, value in config.unet_config.items() if key not in ("out_channels", "transformer_depth_output", "disable_unet_model_creation")}
    network = comfy.cldm.cldm.ControlNet(**{**of_unet, "hint_channels": 3, "operations": comfy.ops.disable_weight_init, "dtype": torch.float32})
    return comfy.controlnet.ControlNet(tiny.randomize(network, 1).eval(), load_device=comfy.model_management.get_torch_device())
