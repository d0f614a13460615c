"""A tiny network of every model that makes images, what ComfyUI's nodes tell it, and how its template samples."""

import unittest.mock
from collections.abc import Callable, Mapping
from typing import NamedTuple

import comfy.supported_models
import tiny
import torch
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams

TEXT, POOLED, TOKENS = 64, tiny.POOLED, 8
BUFFERS = ("pos_embed", "conditioning", "freqs_")  # of networks that leave them uninitialized

UNET = {**tiny.UNET, "context_dim": TEXT, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16, "adm_in_channels": None}
CHROMA = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12]}
CHROMA |= {"theta": 10000, "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 32, "n_layers": 1, "txt_ids_dims": [], "vec_in_dim": None}
RADIANCE = {**CHROMA, "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4}
RADIANCE |= {"nerf_tile_size": 512, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False}
LUMINA = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 1, "multiple_of": 32, "ffn_dim_multiplier": 1.0}
LUMINA |= {"qk_norm": True, "cap_feat_dim": TEXT, "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64], "rope_theta": 10000.0}
MAGE = {"image_model": "mage_flow", "in_channels": 128, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (8, 12, 12)}
LENS = {"image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "enc_hidden_dim": 16, "axes_dims_rope": (8, 12, 12), "selected_layer_index": (0, 1, 2, 3)}
ERNIE = {"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 128, "text_in_dim": TEXT, "rope_axes_dim": (8, 12, 12)}
IDEOGRAM = {"image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "intermediate_size": 128, "adaln_dim": 32, "llm_features_dim": TEXT, "mrope_section": (8, 4, 4)}
JOY = {"image_model": "joyimage", "patch_size": [1, 2, 2], "in_channels": 16, "hidden_size": 64, "num_attention_heads": 2, "text_dim": TEXT, "mlp_width_ratio": 2.0, "num_layers": 2, "rope_dim_list": [8, 12, 12]}
OMNIGEN = {"patch_size": 2, "in_channels": 16, "hidden_size": 48, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16}
OMNIGEN |= {"axes_dim_rope": (8, 8, 8), "axes_lens": (300, 512, 512), "timestep_scale": 1000.0}
HIDREAM = {"image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [16, 8, 8], "caption_channels": [TEXT, TEXT], "max_resolution": [128, 128], "in_channels": 16, "out_channels": 16, "llama_layers": [0, 1]}
HIDREAM |= {"num_attention_heads": 2, "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1, "num_single_layers": 1, "patch_size": 2, "text_emb_dim": POOLED}
HIDREAM_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rope_dims": [8, 4, 4]}
HIDREAM_EYES = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "depth": 1, "num_position_embeddings": 16, "deepstack_visual_indexes": ()}
HUNYUAN = {"image_model": "hunyuan_video", "vec_in_dim": None, "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "theta": 256, "qkv_bias": True}
HUNYUAN |= {"in_channels": 64, "out_channels": 64, "axes_dim": [16, 16], "patch_size": [1, 1], "guidance_embed": False, "byt5": False, "meanflow": False, "meanflow_sum": False, "use_cond_type_embedding": False, "vision_in_dim": None}
PIXELS = {"image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 8, "pixel_attn_hidden_size": 64, "pixel_num_groups": 2, "patch_depth": 2, "pixel_depth": 1, "patch_size": 16}
PIXELS |= {"txt_embed_dim": TEXT, "txt_max_length": 16}
PID = {**PIXELS, "image_model": "pid", "lq_latent_channels": 16, "lq_hidden_dim": 8, "lq_num_res_blocks": 1, "lq_interval": 1, "latent_spatial_down_factor": 8}
PID_FLUX2 = {**PID, "lq_latent_channels": 128, "latent_spatial_down_factor": 16, "lq_latent_unpatchify_factor": 2, "lq_conv_padding_mode": "replicate", "lq_gate_per_token": True, "pit_lq_inject": True, "rope_ref_h": 2048, "rope_ref_w": 2048}
AURA = {"in_channels": 4, "out_channels": 4, "patch_size": 2, "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": TEXT, "max_seq": 1024}
HYDIT = {"image_model": "hydit", "input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "text_states_dim": TEXT, "text_states_dim_t5": TEXT, "size_cond": True, "use_style_cond": True}
SEEDVR2 = {"image_model": "seedvr2", "norm_eps": 1e-5, "num_layers": 2, "heads": 2, "head_dim": 32, "rope_dim": 24, "txt_in_dim": 5120}
SEEDVR2_7B = {**SEEDVR2, "vid_dim": 96, "rope_type": "rope3d", "mlp_type": "normal", "mm_layers": 2}


class Tiny(NamedTuple):
    """config: of comfy.supported_models, by name; later versions of ComfyUI have more. unet: what its network is made with,
    or a function that makes the model. region: cells to the side of a small region. frames: of latents with a time axis.
    The rest: how its template samples, or its publisher."""

    config: str
    unet: Mapping | Callable
    sampler: str = "euler"
    scheduler: str = "simple"
    steps: int = 20
    cfg: float = 4.0
    region: int = 8
    frames: int = 0
    state: Mapping = {}


def radiance(**settings):
    fields = ChromaRadianceParams.__dataclass_fields__
    later = {"use_sequential_txt_ids": False}
    return tiny._build(comfy.supported_models.ChromaRadiance, {**RADIANCE, **settings, **{name: value for name, value in later.items() if name in fields}})


def zimage_pixel():
    decoder = {"decoder_in_channels": 192, "decoder_hidden_size": 32, "decoder_num_res_blocks": 1, "decoder_max_freqs": 8}
    return tiny.zimage(comfy.supported_models.ZImagePixelSpace, image_model="zimage_pixel", patch_size=8, in_channels=3, use_x0=True, **decoder)


def seedvr2_7b():
    import comfy.ldm.seedvr.model

    with unittest.mock.patch.object(comfy.ldm.seedvr.model, "SEEDVR2_7B_VID_DIM", SEEDVR2_7B["vid_dim"]):
        return tiny._build(comfy.supported_models.SeedVR2, SEEDVR2_7B)


FAMILIES = {
    "sd15": Tiny("SD15", tiny.sd15, "euler", "normal", 20, 8.0),
    "sd21": Tiny("SD20", UNET, state={"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([1.0, -1.0])}),  # a spread by which v-prediction is told
    "sdxl": Tiny("SDXL", tiny.sdxl, "dpmpp_2m", "karras", 25, 7.0),
    "sdxl_refiner": Tiny("SDXLRefiner", {**UNET, "num_classes": "sequential", "adm_in_channels": POOLED + 5 * 256}, "euler", "normal", 25, 8.0),
    "pixart": Tiny("PixArtSigma", tiny.pixart, region=36),  # its grid of positions has no smaller one
    "hunyuan_dit": Tiny("HunyuanDiT", HYDIT),
    "anima": Tiny("Anima", tiny.anima, steps=30, frames=1),
    "cosmos_predict2": Tiny("CosmosT2IPredict2", tiny.cosmos, frames=1),
    "kandinsky5": Tiny("Kandinsky5Image", tiny.kandinsky5, steps=50, cfg=3.5),
    "wan": Tiny("WAN21_T2V", tiny.wan, frames=2),
    "wan22_5b": Tiny("WAN22_T2V", lambda: tiny.wan(48, comfy.supported_models.WAN22_T2V, out_dim=48), frames=1),
    "sd3": Tiny("SD3", tiny.sd3, "euler", "sgm_uniform", 20),
    "aura": Tiny("AuraFlow", AURA),
    "flux": Tiny("Flux", tiny.flux, cfg=1.0),
    "flux_schnell": Tiny("FluxSchnell", lambda: tiny.flux(comfy.supported_models.FluxSchnell, guidance_embed=False), steps=4, cfg=1.0),
    "flux_fill": Tiny("FluxInpaint", lambda: tiny.flux(comfy.supported_models.FluxInpaint, in_channels=96), cfg=1.0),
    "longcat": Tiny("LongCatImage", lambda: tiny.flux(comfy.supported_models.LongCatImage, guidance_embed=False, vec_in_dim=None, txt_ids_dims=[1, 2])),
    "flux2": Tiny("Flux2", tiny.flux2, steps=20, cfg=1.0),
    "flux2_klein": Tiny("Flux2", lambda: tiny.flux2(guidance_embed=False), steps=4, cfg=1.0),
    "chroma": Tiny("Chroma", CHROMA, "euler", "beta", 26, 3.5),
    "radiance": Tiny("ChromaRadiance", radiance, "euler", "beta", 30, 3.5, region=64),
    "radiance_x0": Tiny("ChromaRadiance", lambda: radiance(use_x0=True), "euler", "beta", 30, 3.5, region=64),
    "qwen": Tiny("QwenImage", tiny.qwen, steps=4, cfg=1.0, frames=1),
    "qwen_edit": Tiny("QwenImage", lambda: tiny.qwen(default_ref_method="index_timestep_zero"), steps=40, frames=1),
    "krea2": Tiny("Krea2", tiny.krea2, steps=8, cfg=1.0, frames=1),
    "mage_flow": Tiny("MageFlow", MAGE, steps=30, cfg=5.0),
    "joyimage": Tiny("JoyImage", JOY, "euler", "normal", 40, frames=1),
    "lumina2": Tiny("Lumina2", LUMINA, "res_multistep", "simple", 25),
    "newbie": Tiny("Lumina2", {**LUMINA, "clip_text_dim": POOLED}, "res_multistep", "simple", 30),
    "zimage": Tiny("ZImage", tiny.zimage, "res_multistep", "simple", 8, 1.0),
    "zimage_pixel": Tiny("ZImagePixelSpace", zimage_pixel, "res_multistep", "simple", 8, 1.0, region=32),
    "omnigen2": Tiny("Omnigen2", {**OMNIGEN, "image_model": "omnigen2", "text_feat_dim": TEXT}, cfg=5.0),
    "boogu": Tiny("Boogu", {**OMNIGEN, "image_model": "boogu", "instruction_feat_dim": TEXT, "num_double_stream_layers": 1}, "lcm", "sgm_uniform", 4, 1.0),
    "ernie": Tiny("ErnieImage", ERNIE),
    "lens": Tiny("Lens", LENS, cfg=5.0),
    "ideogram4": Tiny("Ideogram4", IDEOGRAM, cfg=7.0),
    "hidream_i1": Tiny("HiDream", HIDREAM, "lcm", "normal", 28, 1.0),
    "hidream_o1": Tiny("HiDreamO1", {"image_model": "hidream_o1", "text_config_overrides": HIDREAM_TEXT, "vision_config_overrides": HIDREAM_EYES}, "dpmpp_2m_sde_gpu", "normal", 40, 5.0, region=64),
    "hunyuan_image": Tiny("HunyuanImage21", HUNYUAN, cfg=3.5),
    "pixeldit": Tiny("PixelDiTT2I", PIXELS, "er_sde", "simple", 30, region=64),
    "pid": Tiny("PiD", PID, "lcm", "simple", 4, 1.0, region=64),
    "pid_flux2": Tiny("PiD", PID_FLUX2, "lcm", "simple", 4, 1.0, region=128),
    "seedvr2_3b": Tiny("SeedVR2", tiny.seedvr2, steps=1, cfg=1.0, frames=1),
    "seedvr2_7b": Tiny("SeedVR2", seedvr2_7b, steps=1, cfg=1.0, frames=1),
}


def is_known(name) -> bool:
    """Whether this ComfyUI has the class."""
    return hasattr(comfy.supported_models, FAMILIES[name].config)


def build(name):
    family = FAMILIES[name]
    if callable(family.unet):
        model = family.unet()
    else:
        model = tiny._build(getattr(comfy.supported_models, family.config), family.unet, family.state)
    for buffer_name, buffer in model.model.diffusion_model.named_buffers():
        if any(part in buffer_name for part in BUFFERS) and buffer.is_floating_point() and buffer.numel():
            buffer.copy_(tiny.noise(buffer.shape, 5))
    return model


def latent(name, model, height, width, images=1, seed=3):
    frames = [FAMILIES[name].frames] if FAMILIES[name].frames else []
    return tiny.noise((images, model.model.latent_format.latent_channels, *frames, height, width), seed)


def masked(name, model, shape, region):
    return {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}


def many_layers(name, model, shape, region):
    return {"conditioning_llama3": tiny.noise((1, 2, TOKENS, TEXT), 40)}


def two_encoders(name, model, shape, region):
    return {"conditioning_mt5xl": tiny.noise((1, 256, TEXT), 60), "attention_mask": torch.ones(1, 77), "attention_mask_mt5xl": torch.ones(1, 256)}


def token_ids(name, model, shape, region):
    return {"text_input_ids": torch.tensor([[151644, 872, 198, 11, 12, 151645, 198, 151644, 77091, 198, 151669, 151673]])}


def small_latent(name, model, shape, region):
    """What PiD decodes."""
    projection = model.model.diffusion_model.lq_proj
    ratio = projection.sr_scale * projection.latent_spatial_down_factor
    whole = tiny.noise((1, projection.latent_channels, *(side // ratio for side in shape[-2:])), 51)
    return {"lq_latent": whole if region is None else type(region)(*(side // ratio for side in region)).crop(whole), "degrade_sigma": torch.tensor([0.0])}


TOLD = {"HiDream": many_layers, "HunyuanDiT": two_encoders, "Omnigen2": masked, "Boogu": masked, "HiDreamO1": token_ids, "PiD": small_latent}
PROMPTS = {"HunyuanDiT": 77}  # tokens


def conditioning(name, model, shape, region=None):
    """(positive, negative) for a canvas of `shape`, or for a Region of it alone."""
    config = FAMILIES[name].config
    if config == "SeedVR2":
        from comfy_extras.nodes_seedvr import SeedVR2Conditioning

        low = tiny.noise(shape, 50)
        return SeedVR2Conditioning.execute(model, {"samples": low if region is None else region.crop(low)}).args[:2]
    told = TOLD[config](name, model, shape, region) if config in TOLD else {}
    return tuple(tiny.conditioning(seed, PROMPTS.get(config, TOKENS), **told) for seed in (1, 2))
