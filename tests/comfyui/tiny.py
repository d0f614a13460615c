"""Seeded random models of a few layers, built from ComfyUI's own classes."""

import dataclasses
import functools
import unittest.mock

import comfy.cldm.cldm
import comfy.conds
import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy.ldm.anima.model import LLMAdapter
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from comfy.patcher_extension import WrappersMP

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1],
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
POOLED = 32


def randomize(module, seed=0):
    """ComfyUI's layers start uninitialized."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.data = torch.zeros(parameter.shape) if name.endswith("bias") else torch.ones(parameter.shape)
        else:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
    return module


def patcher(model):
    model.eval()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=comfy.model_management.unet_offload_device())


def _build(config, unet, state=None):
    conf = config(unet)
    conf.unet_config.update(unet)
    conf.set_inference_dtype(torch.float32, None)
    model = conf.get_model(state or {}, "")
    randomize(model.diffusion_model)
    return patcher(model)


def sdxl(in_channels=4, v_prediction=False):
    unet = {**UNET, "in_channels": in_channels, "use_linear_in_transformer": True, "context_dim": 64, "num_heads": -1, "num_head_channels": 16, "num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}
    return _build(comfy.supported_models.SDXL, unet, {"v_pred": torch.tensor([])} if v_prediction else None)


def sd15():
    return _build(comfy.supported_models.SD15, {**UNET, "use_linear_in_transformer": False, "context_dim": 64, "num_heads": 4, "num_head_channels": -1, "adm_in_channels": None})


def sd3():
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}}
    model = _build(comfy.supported_models.SD3, {"in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": POOLED, "context_embedder_config": embedder, "num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None})
    model.model.diffusion_model.pos_embed.copy_(noise(model.model.diffusion_model.pos_embed.shape))  # a buffer, uninitialized
    return model


def flux(config=comfy.supported_models.Flux, **settings):
    unet = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": 64, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
    unet |= {"axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
    return _build(config, {**unet, **settings})


def flux2(**settings):
    unet = {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 64, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 8, 8, 8]}
    unet |= {"theta": 2000, "patch_size": 1, "qkv_bias": False, "ops_bias": False, "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3], "guidance_embed": True}
    return _build(comfy.supported_models.Flux2, {**unet, **settings})


def radiance():
    """Its latents are pixels, its tokens 16 x 16 of them."""
    unet = {"image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "context_in_dim": 64, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000}
    unet |= {"patch_size": 16, "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 32, "n_layers": 1, "txt_ids_dims": [], "vec_in_dim": None}
    unet |= {field.name: False for field in dataclasses.fields(ChromaRadianceParams) if field.name.startswith("use_")}  # some are of later versions
    return _build(comfy.supported_models.ChromaRadiance, {**unet, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 512, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32})


def pixart():
    unet = {"image_model": "pixart_sigma", "input_size": 16, "patch_size": 2, "hidden_size": 96, "depth": 2, "num_heads": 2, "caption_channels": 64, "pe_interpolation": 1.0, "micro_condition": True}
    return _build(comfy.supported_models.PixArtSigma, unet)


def qwen(**settings):
    unet = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 64, "axes_dims_rope": (8, 12, 12)}
    return _build(comfy.supported_models.QwenImage, {**unet, **settings})


def wan(in_dim=16, config=comfy.supported_models.WAN21_T2V, **settings):
    unet = {"image_model": "wan2.1", "model_type": "t2v", "in_dim": in_dim, "dim": 64, "ffn_dim": 128, "freq_dim": 32, "text_dim": 64, "num_heads": 2, "num_layers": 2}
    return _build(config, {**unet, **settings})


def cosmos(config=comfy.supported_models.CosmosT2IPredict2, name="cosmos_predict2"):
    unet = {"image_model": name, "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 2, "num_heads": 2}
    return _build(config, {**unet, "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 8})


def anima():
    adapter = functools.partial(LLMAdapter, source_dim=64, target_dim=64, model_dim=64, num_layers=1, num_heads=2)
    with unittest.mock.patch("comfy.ldm.anima.model.LLMAdapter", adapter):
        return cosmos(comfy.supported_models.Anima, "anima")


def zimage(config=comfy.supported_models.ZImage, **settings):
    unet = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 8, "n_kv_heads": 8, "multiple_of": 32, "ffn_dim_multiplier": 1.0, "qk_norm": True}
    unet |= {"cap_feat_dim": 64, "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64], "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 8}
    return _build(config, {**unet, **settings})


def krea2():
    unet = {"image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 32, "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 2, "patch": 2, "channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2}
    return _build(comfy.supported_models.Krea2, unet)


def kandinsky5():
    unet = {"image_model": "kandinsky5", "in_text_dim": 64, "in_text_dim2": POOLED, "time_dim": 32, "model_dim": 64, "ff_dim": 128, "visual_embed_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (8, 12, 12)}
    return _build(comfy.supported_models.Kandinsky5Image, {**unet, "rope_scale_factor": (1.0, 1.0, 1.0)})


def seedvr2():
    """With what its network keeps in buffers filled in."""
    unet = {"image_model": "seedvr2", "norm_eps": 1e-5, "num_layers": 2, "heads": 2, "head_dim": 32, "rope_dim": 24, "txt_in_dim": 5120, "mm_layers": 1, "mlp_type": "swiglu"}
    model = _build(comfy.supported_models.SeedVR2, {**unet, "vid_dim": 48, "vid_out_norm": True})
    for name, buffer in model.model.diffusion_model.named_buffers():
        if "conditioning" in name and buffer.is_floating_point() and buffer.numel():
            buffer.copy_(noise(buffer.shape, 5))
    return model


MODELS = {"sdxl": sdxl, "sdxl_v": lambda: sdxl(v_prediction=True), "sd15": sd15, "sd3": sd3, "flux": flux}
FAMILIES = {"sd15": sd15, "sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart, "qwen": qwen, "wan": wan, "zimage": zimage}
FRAMES = {"qwen": 1, "wan": 2}  # models whose latents have a time axis


class ToyNetwork(torch.nn.Module):
    """The predictor of the reference data: eps = conv(tanh(conv(x, w1, b1) + t/1000 v), w2, b2).

    With `sizes`, eps also moves with the prompt and SDXL's time ids, as lsrna_df_s32_cond says.
    """

    def __init__(self, weights, sizes=False):
        super().__init__()
        self.dtype, self.sizes = torch.float32, sizes
        for name in ("w1", "b1", "v", "w2", "b2"):
            self.register_buffer(name, weights[f"toy.{name}"])

    def forward(self, x, timesteps, context=None, y=None, **kwargs):
        t = (timesteps / 1000).reshape(-1, 1, 1, 1)
        hidden = torch.conv2d(x, self.w1, self.b1, padding=1) + t * self.v[:, None, None]
        eps = torch.conv2d(hidden.tanh(), self.w2, self.b2, padding=1)
        if self.sizes:
            height, _, top, left, _, width = y[:, -6 * 256 :].unflatten(1, (6, 256))[..., 0].unbind(1)
            shift = y[:, 0] + top / 1024 * 0.02 + left / 1024 * 0.05 + (height + width) / 4096 * 0.01
            eps = eps + shift.reshape(-1, 1, 1, 1) * eps.new_tensor([1, -1, 0.5, 0.25])[:, None, None]
        return eps


class PlainNumbers(torch.nn.Module):
    def forward(self, ids):
        return ids[:, None].repeat(1, 256)


def toy(weights, sizes=False):
    """SDXL model around ToyNetwork; its embedder repeats the plain number."""
    conf = comfy.supported_models.SDXL({"disable_unet_model_creation": True, "adm_in_channels": POOLED + 6 * 256, "in_channels": 4})
    conf.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SDXL(conf)
    model.diffusion_model = ToyNetwork(weights, sizes)
    model.embedder = PlainNumbers()
    return patcher(model)


def conditioning(seed=0, tokens=8, pooled=None, **keys):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, 64, generator=generator)
    pooled_output = torch.randn(1, POOLED, generator=generator) if pooled is None else torch.full((1, POOLED), pooled)
    return [[text, {"pooled_output": pooled_output, **keys}]]


def controlnet(hint, seed=1, strength=0.8, previous=None):
    unet = {key: value for key, value in UNET.items() if key not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(
        **unet,
        use_linear_in_transformer=True,
        context_dim=64,
        num_heads=-1,
        num_head_channels=16,
        num_classes="sequential",
        adm_in_channels=POOLED + 6 * 256,
        hint_channels=3,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    control = comfy.controlnet.ControlNet(randomize(net, seed).eval(), load_device=comfy.model_management.get_torch_device())
    control.set_cond_hint(hint, strength)
    if previous is not None:
        control.set_previous_controlnet(previous)
    return control


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(model, latent, sampler="euler", steps=3, cfg=4.0, positive=None, negative=None, seed=7, denoise=1.0, sigmas=None, noise_tensor=None, **kwargs):
    """The stock KSampler's path; returns unscaled samples."""
    positive, negative = positive or conditioning(1), negative or conditioning(2)
    if sigmas is None:
        # of the model's table; a level halfway between two would leave the timestep to rounding
        sigmas = comfy.samplers.KSampler(model, steps, torch.device("cpu"), sampler, "simple", denoise).sigmas
    noise_tensor = noise(latent.shape, seed) if noise_tensor is None else noise_tensor
    return comfy.sample.sample_custom(model, noise_tensor, cfg, comfy.samplers.sampler_object(sampler), sigmas, positive, negative, latent, disable_pbar=True, seed=seed, **kwargs)


def evaluate(model, x, conds, sigma=2.0, size=None):
    """One CALC_COND_BATCH call as a sampler makes it: denoised predictions per guidance branch."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*conds)
    guider.set_cfg(3.0)
    found = []

    class Probe(comfy.samplers.Sampler):
        def sample(self, wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
            timestep = torch.full((x.shape[0],), sigma)
            branches = [wrap.conds["positive"], wrap.conds["negative"]]
            found.extend(comfy.samplers.calc_cond_batch(wrap.inner_model, branches, x, timestep, extra_args["model_options"]))
            return x

    guider.sample(torch.zeros_like(x), torch.zeros_like(x), Probe(), torch.tensor([sigma, 0.0]), seed=0)
    return found


def relative(a, b):
    return float((a - b).norm() / b.norm())


def views_seen(model):
    """A clone of `model`, and the sizes (height, width) that its network is shown, in cells."""
    seen, model = set(), model.clone()

    def watch(executor, x, *args, **kwargs):
        seen.add(tuple(x.shape[-2:]))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return model, seen
