"""The bundled mini world as ordinary ComfyUI objects: a tiny SDXL-family model, CLIP text encoder and VAE."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import NamedTuple

import comfy.latent_formats
import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from .. import latent_space
from . import file
from .captioner import Captioner, describe
from .captions import from_ids, to_ids
from .vae import MiniVAE
from .world import (
    ARBITRARY_CONFIG,
    FLOW_CONFIG,
    TEXT_CONFIG,
    UNET_CONFIG,
    warning_of,
)

# ComfyUI's VAE class builds only networks it knows. This one is built to satisfy its constructor and then replaced.
PLACEHOLDER_VAE = {"ddconfig": {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
                                "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}, "embed_dim": 4}


class MiniTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        data = {"clip_l_max_length": TEXT_CONFIG["max_position_embeddings"], **tokenizer_data}
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=data)
        self.warned = set()

    def tokenize_with_weights(self, text, return_word_ids=False, image=None, **kwargs):
        """As ComfyUI does it; words that the mini world does not know are named in the log, once a text. With an image,
        tokens to generate its caption from, whatever the text asks."""
        if image is not None:
            return {self.clip_name: [[({"type": "image", "data": image[:1]}, 1.0)]]}
        if text not in self.warned and (warning := warning_of(text)):
            self.warned.add(text)
            logging.getLogger("loupe").warning("Loupe: %s", warning)
        return super().tokenize_with_weights(text, return_word_ids, **kwargs)

    def decode(self, token_ids, **kwargs):
        """The caption of what `MiniClipModel` generated."""
        return from_ids(token_ids)


class MiniTextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, max_length=TEXT_CONFIG["max_position_embeddings"], textmodel_json_config=dict(TEXT_CONFIG),
                         return_projected_pooled=False, model_options=model_options)


class MaskedTextEncoder(MiniTextEncoder):
    """Its states behind the end of a prompt are zero: ComfyUI's NextDiT ignores masks, and was trained on these."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options)
        self.zero_out_masked = True


class MiniClipModel(comfy.sd1_clip.SD1ClipModel):
    encoder = MiniTextEncoder

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=self.encoder)
        self.captioner = Captioner(comfy.ops.disable_weight_init).to(device)

    def generate(self, tokens, max_length=256, **kwargs):
        """The caption of an image, as ComfyUI's vision-language models generate text."""
        (token, _), *_ = tokens[self.clip_name][0]
        if not isinstance(token, dict):
            raise ValueError("the mini world's clip writes captions of images and nothing else. Connect an image.")
        caption = describe(self.captioner, token["data"].to(getattr(self, self.clip).execution_device))
        return to_ids(caption)[:max_length]


class MaskedClipModel(MiniClipModel):
    encoder = MaskedTextEncoder


class MiniVAEAdapter(MiniVAE):
    """`MiniVAE` with the call signatures of ComfyUI's autoencoders."""

    def encode(self, x, **kwargs):
        return super().encode(x)

    def decode(self, z, **kwargs):
        return super().decode(z)


class MiniWorld(comfy.supported_models.SDXL):
    """The model's configuration; told from SDXL's by its name."""


class MiniArbitrary(comfy.supported_models.SDXL_instructpix2pix):
    """The same for arbitrary scales."""


class MiniFlow(comfy.supported_models.ZImage):
    """The same for the flow transformer, told from Z-Image's."""


def latent_format() -> comfy.latent_formats.LatentFormat:
    """The mini world's latent format: 4 channels, factor 8, its own scale factor and preview colors."""
    metadata = file.metadata_of("vae")
    *factors, bias = json.loads(metadata.notes["latent_rgb_factors"])
    fmt = latent_space.latent_format(metadata.latents, "the mini world")
    fmt.latent_rgb_factors = factors
    fmt.latent_rgb_factors_bias = bias
    return fmt


def _patcher_class(disable_dynamic: bool):
    """disable_dynamic: ComfyUI asks for it where it loads a model anew, for LoRA hooks and torch.compile."""
    return comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher


def _model(part: str, config: comfy.supported_models_base.BASE, disable_dynamic: bool) -> comfy.model_patcher.ModelPatcher:
    weights, _ = file.load(part)
    config.latent_format = latent_format()
    device = mm.get_torch_device()
    dtype = mm.unet_dtype(model_params=comfy.utils.calculate_parameters(weights), supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    offload = mm.unet_offload_device()
    model = config.get_model({}, "", device=offload)
    model.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    return _patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload)


def load_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL: ComfyUI's SDXL class at the mini world's size."""
    patcher = _model("unet", MiniWorld(dict(UNET_CONFIG)), disable_dynamic)
    patcher.cached_patcher_init = (load_model, ())
    return patcher


def load_arbitrary(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL that sees a low-resolution image: ComfyUI's InstructPix2Pix class, fed by `concat_latent_image` in the
    conditioning. The image's latent is scaled like the noisy one beside it (the class leaves it unscaled)."""
    patcher = _model("arbitrary", MiniArbitrary(dict(ARBITRARY_CONFIG)), disable_dynamic)
    patcher.model.process_ip2p_image_in = patcher.model.latent_format.process_in
    patcher.cached_patcher_init = (load_arbitrary, ())
    return patcher


def load_flow(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL: ComfyUI's Z-Image class at the mini world's size. It takes prompts from `load_clip(masked=True)`."""
    patcher = _model("flow", MiniFlow({"image_model": "lumina2", **FLOW_CONFIG}), disable_dynamic)
    patcher.cached_patcher_init = (load_flow, ())
    return patcher


def load_few_steps() -> comfy.model_patcher.ModelPatcher:
    """MODEL: `load_flow` with the LoRA by which it draws in 4 to 8 steps at guidance scale 1."""
    return comfy.sd.load_lora_for_models(load_flow(), None, file.load("flow_lora")[0], 1.0, 0.0)[0]


def load_clip(disable_dynamic: bool = False, masked: bool = False) -> comfy.sd.CLIP:
    """CLIP: ComfyUI's text model; the vocabulary rows that the file lacks all hold its row for unknown words. It also
    generates captions of images.
    masked: the states of padding are zero."""
    weights, metadata = file.load("text")
    rows = weights.pop("embeddings.token_embedding.weight").float()
    table = rows[:1].repeat(49408, 1)
    table[[int(i) for i in metadata.notes["token_ids"].split(",")]] = rows[1:]
    target = comfy.supported_models_base.ClipTarget(MiniTokenizer, MaskedClipModel if masked else MiniClipModel)
    state = {f"clip_l.transformer.text_model.{k}": v for k, v in weights.items()}
    state["clip_l.transformer.text_model.embeddings.token_embedding.weight"] = table
    state["clip_l.transformer.text_projection.weight"] = torch.eye(TEXT_CONFIG["hidden_size"])
    state["clip_l.logit_scale"] = torch.tensor(4.6055)
    state |= {f"captioner.{k}": v for k, v in file.load("captioner")[0].items()}
    clip = comfy.sd.CLIP(target, parameters=comfy.utils.calculate_parameters(state), model_options={"dtype": torch.float32}, disable_dynamic=disable_dynamic)
    clip.cond_stage_model.load_state_dict(state)
    clip.patcher.cached_patcher_init = (_clip_patcher, (masked,))
    return clip


def load_vae(disable_dynamic: bool = False) -> comfy.sd.VAE:
    """VAE: ComfyUI's VAE object around the mini autoencoder."""
    weights, _ = file.load("vae")
    placeholder = AutoencoderKL(**PLACEHOLDER_VAE)
    vae = comfy.sd.VAE(sd=placeholder.state_dict(), config={"params": PLACEHOLDER_VAE})
    net = MiniVAEAdapter(operations=comfy.ops.disable_weight_init).to(vae.vae_dtype).train(False)
    net.load_state_dict({k: v.to(vae.vae_dtype) for k, v in weights.items()})
    vae.first_stage_model = net
    vae.patcher = _patcher_class(disable_dynamic)(net, load_device=vae.device, offload_device=mm.vae_offload_device())
    vae.patcher.cached_patcher_init = (_vae_patcher, ())
    vae.size = comfy.model_management.module_size(net)
    vae.memory_used_encode = lambda shape, dtype: 256 * shape[2] * shape[3] * mm.dtype_size(dtype)
    vae.memory_used_decode = lambda shape, dtype: 256 * shape[2] * shape[3] * 64 * mm.dtype_size(dtype)
    return vae


def _clip_patcher(masked: bool, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_clip(disable_dynamic, masked).patcher


def _vae_patcher(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_vae(disable_dynamic).patcher


class Variant(NamedTuple):
    model: Callable[[], comfy.model_patcher.ModelPatcher]
    masked: bool = False  # its prompts

    def clip(self) -> comfy.sd.CLIP:
        return load_clip(masked=self.masked)


VARIANTS = {
    "text to image": Variant(load_model),
    "arbitrary scale": Variant(load_arbitrary),
    "flow": Variant(load_flow, masked=True),
    "flow in few steps": Variant(load_few_steps, masked=True),
}
