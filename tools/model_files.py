"""Files that the workflows name and that do not come with Loupe: where they are, or how they are made."""

from typing import NamedTuple

HUB = "https://huggingface.co"


class ModelFile(NamedTuple):
    folder: str  # in ComfyUI's models
    url: str  # ends in the file's name
    sha256: str | None = None


def hub(folder, repository, path, sha256=None):
    return ModelFile(folder, f"{HUB}/{repository}/resolve/main/{path}", sha256)


FILES = (
    hub("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors", "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"),
    hub("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors"),
    hub("checkpoints", "Manojb/stable-diffusion-2-1-base", "v2-1_512-ema-pruned.safetensors"),
    hub("diffusion_models", "Comfy-Org/z_image_turbo", "split_files/diffusion_models/z_image_turbo_bf16.safetensors"),
    hub("diffusion_models", "Comfy-Org/Krea-2", "diffusion_models/krea2_turbo_fp8_scaled.safetensors"),
    hub("diffusion_models", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/diffusion_models/qwen_image_2512_fp8_e4m3fn.safetensors"),
    hub("diffusion_models", "Comfy-Org/Qwen-Image-Edit_ComfyUI", "split_files/diffusion_models/qwen_image_edit_2511_fp8mixed.safetensors"),
    hub("diffusion_models", "Comfy-Org/flux2-klein", "split_files/diffusion_models/flux-2-klein-4b.safetensors"),
    hub("diffusion_models", "Comfy-Org/SeedVR2", "diffusion_models/seedvr2_3b_int8_convrot.safetensors"),
    hub("diffusion_models", "Comfy-Org/PixelDiT", "diffusion_models/pid_flux1_512_to_2048_4step_bf16.safetensors"),
    hub("text_encoders", "Comfy-Org/z_image_turbo", "split_files/text_encoders/qwen_3_4b.safetensors"),
    hub("text_encoders", "Comfy-Org/Krea-2", "text_encoders/qwen3vl_4b_fp8_scaled.safetensors"),
    hub("text_encoders", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"),
    hub("text_encoders", "Comfy-Org/PixelDiT", "text_encoders/gemma_2_2b_it_elm_fp8_scaled.safetensors"),
    hub("vae", "Comfy-Org/z_image_turbo", "split_files/vae/ae.safetensors"),
    hub("vae", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/vae/qwen_image_vae.safetensors"),
    hub("vae", "Comfy-Org/flux2-dev", "split_files/vae/flux2-vae.safetensors"),
    hub("vae", "Comfy-Org/SeedVR2", "vae/seedvr2_ema_vae_fp16.safetensors"),
    hub("loras", "lightx2v/Qwen-Image-2512-Lightning", "Qwen-Image-2512-Lightning-4steps-V1.0-fp32.safetensors"),
    hub("loras", "lightx2v/Qwen-Image-Edit-2511-Lightning", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"),
    hub("loras", "ByteDance/SDXL-Lightning", "sdxl_lightning_4step_lora.safetensors"),
    hub("controlnet", "TTPlanet/TTPLanet_SDXL_Controlnet_Tile_Realistic", "TTPLANET_Controlnet_Tile_realistic_v2_fp16.safetensors"),
    hub("controlnet", "comfyanonymous/ControlNet-v1-1_fp16_safetensors", "control_v11f1e_sd15_tile_fp16.safetensors"),
    ModelFile("latent_upscale_models", "https://github.com/3587jjh/LSRNA/raw/HEAD/lsr/swinir-liif-latent-sdxl.pth"),
)
MODELS = {file.url.rpartition("/")[2]: file for file in FILES}

# what has to be trained: the command that makes it
TRAINED = {
    "clearsr.safetensors": "python dev.py train clearsr",
    "implicit_decoder_sd_xl_base_1.0.safetensors": "python dev.py train implicit-decoder",
}


def files_of(node, known=(*MODELS, *TRAINED)):
    """{input: file} of a node's inputs that name one of the `known` files."""
    return {name: value for name, value in node["inputs"].items() if isinstance(value, str) and value in known}


def download(name):
    """What a node says of the file, for the page to offer it."""
    folder, url, sha256 = MODELS[name]
    return {"name": name, "url": url, "directory": folder, **({"hash": sha256, "hash_type": "SHA256"} if sha256 else {})}
