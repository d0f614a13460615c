"""ClearSR as a ControlNet of ComfyUI, whose encoder carries its LoRA."""

import copy
import os

import comfy.controlnet
import comfy.latent_formats
import comfy.lora
import comfy.model_management as mm
import comfy.ops
import comfy.utils
import torch

from . import ClearSR, ClearSRFile, load
from .file import VAE_LORA


class ClearSRControl(comfy.controlnet.ControlNet):
    """What a CONTROL_NET socket carries for ClearSR. Its hint is a picture; ComfyUI resizes it to the canvas and
    encodes it by the VAE that it is applied with, here one with the file's LoRA, so that every node for ControlNets
    and Loupe's regions work."""

    def __init__(self, file: ClearSRFile, name: str, network: ClearSR | None = None, load_device=None, manual_cast_dtype=None):
        super().__init__(network, compression_ratio=1, latent_format=latent_format(file, name), load_device=load_device, manual_cast_dtype=manual_cast_dtype)
        self.file, self.name = file, name
        self.upscale_algorithm = "bicubic"

    @classmethod
    def from_file(cls, path: str) -> "ClearSRControl":
        file, name = load(path), os.path.basename(path)
        device = mm.get_torch_device()
        dtype = mm.unet_dtype(supported_dtypes=[torch.float16, torch.bfloat16, torch.float32], weight_dtype=comfy.utils.weight_dtype(file.weights))
        cast = mm.unet_manual_cast(dtype, device)
        network = ClearSR(file.config, dtype, mm.unet_offload_device(), comfy.ops.pick_operations(dtype, cast)).eval()
        network.load_state_dict(file.weights)
        return cls(file._replace(weights={}), name, network, device, cast)

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0), vae=None, extra_concat=[]):
        if vae is None:
            raise ValueError(f"vae is not connected, and {self.name} encodes its picture. Connect the VAE of the checkpoint; Apply ControlNet (Old) has no socket for it.")
        return super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae=encoder_with_lora(vae, self.file, self.name), extra_concat=extra_concat)

    def pre_run(self, model, percent_to_timestep_function):
        check_base(model, self)
        super().pre_run(model, percent_to_timestep_function)

    def copy(self):
        out = ClearSRControl(self.file, self.name, None, self.load_device, self.manual_cast_dtype)
        out.control_model, out.control_model_wrapped = self.control_model, self.control_model_wrapped
        self.copy_to(out)
        return out


def latent_format(file: ClearSRFile, name: str) -> comfy.latent_formats.LatentFormat:
    """ComfyUI's format of the latents that the file was trained on."""
    kind, factor = file.metadata.get("latent_format"), file.metadata.get("scale_factor")
    if factor is not None:
        out = comfy.latent_formats.LatentFormat()
        out.scale_factor, out.latent_channels = float(factor), file.config.in_channels
        return out
    found = vars(comfy.latent_formats).get(kind)
    if not isinstance(found, type) or not issubclass(found, comfy.latent_formats.LatentFormat) or found.latent_channels != file.config.in_channels:
        raise ValueError(f"{name} says it was trained on {kind!r} latents, which this ComfyUI does not know with {file.config.in_channels} channels. Update ComfyUI, or choose another file.")
    return found()


def check_base(model, control: ClearSRControl) -> None:
    """Raises ValueError when the control's signals do not fit the network of `model` (ComfyUI's BaseModel)."""
    unet, config = model.model_config.unet_config, control.file.config
    same = {
        "prediction": ("EPS", model.model_type.name),  # the one that `train clearsr` knows
        "channels": (config.model_channels, unet.get("model_channels")),
        "levels": (config.channel_mult, tuple(unet.get("channel_mult", ()))),
        "blocks": (config.num_res_blocks, tuple(unet.get("num_res_blocks", ()))),
        "context width": (config.context_dim, unet.get("context_dim")),
        "size conditioning": (config.adm_in_channels, unet.get("adm_in_channels")),
        "latent scale": (latent_format(control.file, control.name).scale_factor, model.latent_format.scale_factor),
    }
    wrong = [f"{what} {mine} instead of {theirs}" for what, (mine, theirs) in same.items() if mine != theirs]
    if wrong:
        raise ValueError(f"control_net {control.name} was trained for {control.file.metadata.get('base', 'another model')} and does not fit model, a {type(model).__name__}: {', '.join(wrong)}. Use the checkpoint it was trained for.")


def encoder_with_lora(vae, file: ClearSRFile, name: str):
    """A VAE that shares all with `vae` but encodes with the file's LoRA."""
    names = {VAE_LORA + key.removesuffix(".weight").replace(".", "_"): key for key in vae.patcher.model.state_dict() if key.endswith(".weight")}
    if not set(_layers(file.vae_lora)) <= names.keys() or vae.latent_channels != file.config.in_channels:
        raise ValueError(f"vae is a {type(vae.first_stage_model).__name__} of another kind than {name} was trained with ({file.metadata.get('base', 'unknown')}). Connect the VAE of its checkpoint.")
    out = copy.copy(vae)
    out.patcher = vae.patcher.clone()
    out.patcher.add_patches(comfy.lora.load_lora(file.vae_lora, names))
    return out


def _layers(lora):
    return {key.split(".")[0] for key in lora}
