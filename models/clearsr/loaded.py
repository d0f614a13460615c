"""ClearSR as a ControlNet of ComfyUI, whose encoder carries its LoRA."""

import copy
import os

import comfy.controlnet
import comfy.lora
import comfy.model_management as mm
import comfy.ops
import torch

from .. import files
from ..files import Metadata
from ..latent_space import latent_format
from .file import LORAS, load
from .network import ClearSR, Config


class ClearSRControl(comfy.controlnet.ControlNet):
    """What a CONTROL_NET socket carries for ClearSR. Its hint is an image; ComfyUI resizes it to the canvas and
    encodes it by the VAE that it is applied with, here one with the file's LoRA, so that every node for ControlNets
    and Loupe's regions work."""

    def __init__(self, network: ClearSR | None, metadata: Metadata, name: str, load_device=None, manual_cast_dtype=None):
        super().__init__(network, compression_ratio=1, latent_format=latent_format(metadata.latents, name), load_device=load_device, manual_cast_dtype=manual_cast_dtype)
        self.metadata, self.name = metadata, name
        self.upscale_algorithm = "bicubic"

    @classmethod
    def from_file(cls, path: str, name: str | None = None) -> "ClearSRControl":
        """name: for errors, the file's own by default."""
        device = mm.get_torch_device()
        dtype = mm.unet_dtype(supported_dtypes=[torch.float16, torch.bfloat16, torch.float32], weight_dtype=files.weight_dtype(path))
        cast = mm.unet_manual_cast(dtype, device)
        network, metadata = load(path, dtype=dtype, device=mm.unet_offload_device(), operations=comfy.ops.pick_operations(dtype, cast))
        return cls(network, metadata, name or os.path.basename(path), device, cast)

    @property
    def config(self) -> Config:
        return self.control_model.config

    @property
    def loras(self) -> dict[str, dict[str, torch.Tensor]]:
        return self.control_model.loras

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0), vae=None, extra_concat=[]):
        if vae is None:
            raise ValueError(f"vae is not connected, and {self.name} encodes its image. Connect the VAE of the checkpoint; Apply ControlNet (Old) has no socket for it.")
        return super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae=encoder_with_lora(vae, self), extra_concat=extra_concat)

    def pre_run(self, model, percent_to_timestep_function):
        check_base(model, self)
        super().pre_run(model, percent_to_timestep_function)

    def copy(self):
        out = ClearSRControl(None, self.metadata, self.name, self.load_device, self.manual_cast_dtype)
        out.control_model, out.control_model_wrapped = self.control_model, self.control_model_wrapped
        self.copy_to(out)
        return out


def check_base(model, control: ClearSRControl) -> None:
    """Raises ValueError when the control's signals do not fit the network of `model` (ComfyUI's BaseModel)."""
    unet, config = model.model_config.unet_config, control.config
    same = {
        "prediction": ("EPS", model.model_type.name),  # the one that `train clearsr` knows
        "channels": (config.model_channels, unet.get("model_channels")),
        "levels": (config.channel_mult, tuple(unet.get("channel_mult", ()))),
        "blocks": (config.num_res_blocks, tuple(unet.get("num_res_blocks", ()))),
        "context width": (config.context_dim, unet.get("context_dim")),
        "size conditioning": (config.adm_in_channels, unet.get("adm_in_channels")),
        "latent scale": (latent_format(control.metadata.latents, control.name).scale_factor, model.latent_format.scale_factor),
    }
    wrong = [f"{what} {mine} instead of {theirs}" for what, (mine, theirs) in same.items() if mine != theirs]
    if wrong:
        raise ValueError(f"control_net {control.name} was trained for {control.metadata.base or 'another model'} and does not fit model, a {type(model).__name__}: {', '.join(wrong)}. Use the checkpoint it was trained for.")


def encoder_with_lora(vae, control: ClearSRControl):
    """A VAE that shares all with `vae` but encodes with the LoRA of the control's file."""
    names = {LORAS["vae"] + key.removesuffix(".weight").replace(".", "_"): key for key in vae.patcher.model.state_dict() if key.endswith(".weight")}
    layers = {key.split(".")[0] for key in control.loras["vae"]}
    if not layers <= names.keys() or vae.latent_channels != control.config.in_channels:
        raise ValueError(f"vae is a {type(vae.first_stage_model).__name__} of another kind than {control.name} was trained with ({control.metadata.base or 'unknown'}). Connect the VAE of its checkpoint.")
    out = copy.copy(vae)
    out.patcher = vae.patcher.clone()
    out.patcher.add_patches(comfy.lora.load_lora(control.loras["vae"], names))
    return out
