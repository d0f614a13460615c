"""ClearSR on a MODEL and on CONDITIONING: the LoRA of its decoder, its image prompt, its control."""

import comfy.lora
import torch

from ..models.clearsr.image_prompt import ImagePrompt
from ..models.clearsr.loaded import ClearSRControl, check_base

KEY = "loupe_clearsr"


def patch_decoder(model, control: ClearSRControl, prompt: torch.Tensor | None = None):
    """Clone of `model` with the LoRA of the control's file on the UNet's decoder, once, and with the image prompt.

    prompt: (B, width) CLIP embeddings of the low-quality images.
    """
    check_base(model.model, control)
    patched = model.clone()
    key = f"{KEY} {control.name}"
    if patched.get_attachment(key) is None:
        names = comfy.lora.model_lora_keys_unet(patched.model, {})
        patched.add_patches(comfy.lora.load_lora(control.loras["unet"], names))
        patched.set_attachments(key, True)
    if prompt is not None:
        if control.metadata.notes.get("image_prompt") == "0":
            raise ValueError(f"clip_vision_output is connected, and {control.name} was trained without an image prompt. Disconnect it, or train with --clip-vision.")
        if prompt.shape[-1] != control.config.context_dim:
            raise ValueError(f"clip_vision_output is {prompt.shape[-1]} wide, the model's context {control.config.context_dim}. Encode the image with the image encoder that {control.name} was trained with.")
        patched.set_model_attn2_patch(ImagePrompt(prompt.flatten(0, -2)))
    return patched


def with_control(conditioning, control, chains: dict):
    """The conditioning with `control` before each control it has. `chains` shares one object among equal chains, so
    that ComfyUI evaluates both prompts in one call."""
    out = []
    for text, options in conditioning:
        previous = options.get("control")
        if previous not in chains:
            chains[previous] = control.copy().set_previous_controlnet(previous)
        out.append([text, {**options, "control": chains[previous], "control_apply_to_uncond": False}])
    return out
