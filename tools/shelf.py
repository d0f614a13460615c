"""What ComfyUI's template browser shows of workflows/api, in this order: other models first, the mini world last."""

from typing import NamedTuple


class Template(NamedTuple):
    title: str  # the template's file name, which the browser shows
    note: str  # what it does, what to change, what it needs
    widgets: dict[str, tuple[str, str]] = {}  # {name: (node, input)}: those in sight where the rest is behind one node


PROMPT = {"prompt": ("What the image shows", "text")}
DIAL = {"scale_by": ("Enlarge Image", "scale_by"), "creativity": ("Creativity", "creativity"), "seed": ("Draw", "noise_seed")}


def dial(model, side, files):
    """The note of a template that enlarges an image by scale_by and creativity."""
    return (
        f"Upscales your image 2x: enlarges it and redraws it region by region with {model}. "
        "For 4x set scale_by to 4; a higher creativity adds more detail, a lower one stays closer to your image. "
        f"Memory must hold one region of {side} x {side} pixels, at any scale; {files}."
    )


SHELF = {
    "upscale_zimage": Template(
        "Upscale your image (Z-Image Turbo)",
        dial("Z-Image Turbo", 1024, "the files take 21 GB"),
        {**PROMPT, **DIAL},
    ),
    "upscale_krea2": Template(
        "Upscale your image (Krea 2 Turbo)",
        dial("Krea 2 Turbo", 1024, "the files take 19 GB, and ComfyUI has to be 0.30 or newer"),
        {**PROMPT, **DIAL},
    ),
    "upscale_krea2_captions": Template(
        "Upscale your image with a caption for each region (Krea 2 Turbo)",
        dial("Krea 2 Turbo, whose text encoder looks at each region and writes its prompt", 1024, "the files take 19 GB, and ComfyUI has to be 0.30 or newer"),
        {**PROMPT, **DIAL},
    ),
    "upscale_qwen": Template(
        "Upscale your image (Qwen-Image)",
        dial("Qwen-Image and its LoRA for few steps", 1328, "the files take 32 GB"),
        {**PROMPT, **DIAL},
    ),
    "upscale_qwen_edit": Template(
        "Upscale your image (Qwen-Image-Edit)",
        dial("Qwen-Image-Edit, which sees its part of the enlarged image beside each region", 1024, "the files take 31 GB"),
        {"prompt": ("What to do with the image", "prompt"), **DIAL},
    ),
    "upscale_flux2_klein": Template(
        "Upscale your image (Flux.2 Klein)",
        dial("Flux.2 Klein 4B", 1024, "the files take 16 GB"),
        {**PROMPT, **DIAL},
    ),
    "upscale_sdxl": Template(
        "Upscale your image (SDXL)",
        dial("SDXL in 20 steps with guidance", 1024, "any SDXL checkpoint works"),
        {**PROMPT, "negative_prompt": ("Negative prompt", "text"), **DIAL},
    ),
    "upscale_sdxl_few_steps": Template(
        "Upscale your image in few steps (SDXL)",
        dial("SDXL and a LoRA for few steps, without guidance", 1024, "another few-step LoRA works too, with its own sampler and scheduler"),
        {**PROMPT, **DIAL},
    ),
    "upscale_sdxl_tile": Template(
        "Upscale your image with a tile ControlNet (SDXL)",
        dial("SDXL and a tile ControlNet that sees each region of the enlarged image", 1024, "a lower strength leaves more freedom"),
        {**PROMPT, **DIAL, "strength": ("Apply ControlNet", "strength")},
    ),
    "upscale_sd15_tile": Template(
        "Upscale your image with a tile ControlNet (SD 1.5)",
        dial("SD 1.5 and a tile ControlNet that sees each region of the enlarged image", 512, "a lower strength leaves more freedom"),
        {**PROMPT, **DIAL, "strength": ("Apply ControlNet", "strength")},
    ),
    "seedvr2": Template(
        "Restore and upscale in regions (SeedVR2)",
        "Enlarges your image 2x and restores it with SeedVR2 in one step, region by region. For 4x set scale_by to 4. Memory must hold one region, at any scale; the files take 4 GB, and ComfyUI has to be 0.30 or newer.",
        {"scale_by": ("Enlarge", "scale_by"), "seed": ("Restore", "seed")},
    ),
    "pid_decode": Template(
        "Decode 4x in regions (PiD)",
        "Encodes your image and decodes the latent at four times its size with PiD, region by region. A latent of Z-Image or Flux can take the encoder's place; for a larger result raise megapixels. Memory must hold one region of 2048 x 2048 pixels; the files take 6 GB, and ComfyUI has to be 0.30 or newer.",
        {**PROMPT, "megapixels": ("Area of the latent", "megapixels"), "seed": ("Decode in regions", "noise_seed"), "latent_vae": ("Load the VAE of the latent", "vae_name"), "pixel_vae": ("Load the VAE of pixels", "vae_name")},
    ),
    "cupscale_image_sdxl": Template(
        "Upscale your image 2x with C-Upscale (SDXL)",
        "Upscales your image 2x with C-Upscale: load it, describe it in the prompt and press Run. A higher start_at_step stays closer to the image, a lower one redraws more.",
        {**PROMPT, "scale_by": ("Enlarge", "scale_by"), "start_at_step": ("Draw with C-Upscale", "start_at_step"), "seed": ("Draw with C-Upscale", "noise_seed")},
    ),
    "lsrna_demofusion_sdxl": Template(
        "Upscale 2x with LSRNA-DemoFusion (SDXL)",
        "Draws an image at 1024 px, enlarges its latent with the LSR network and lets SDXL draw the detail, region by region. The preset *balanced* takes 208 network rows (images x guidance branches), 1,040 with scale_by 4, which makes 4096 px; *LSRNA paper* adds the noise at edges and takes 780 and 3,900.",
    ),
    "pixelsmith_sdxl": Template(
        "Upscale 4x with PixelSmith (SDXL)",
        "Draws an image at 1024 px and takes it to 2048 and then 4096 px with PixelSmith: each time it is enlarged, encoded and redrawn patch by patch, held to its structure until the noise is down to guided_until. A higher value leaves more to the model.",
    ),
    "clearsr_sd21": Template(
        "Restore your image 4x with ClearSR (SD 2.1, needs a file you train)",
        "Restores your image at four times its size with ClearSR on SD 2.1-base, region by region. Train the file first: `python dev.py train clearsr --base v2-1_512-ema-pruned.safetensors --images FOLDER` makes `clearsr.safetensors` for models/controlnet.",
        {"scale_by": ("Enlarge to 4x", "scale_by"), "strength": ("Apply ClearSR", "strength"), "adjustment": ("Latent Adjustment (LSA)", "preset"), "seed": ("Restore", "seed")},
    ),
    "any_scale_decode_sdxl": Template(
        "Decode one latent at any size (SDXL, needs a file you train)",
        "Draws one latent and decodes it at the VAE's own size, at twice and at 3.7 times that. Loupe brings no decoder for SDXL: `python dev.py train implicit-decoder --vae sd_xl_base_1.0.safetensors --images FOLDER` makes `implicit_decoder_sd_xl_base_1.0.safetensors` for models/vae_approx.",
    ),
    "upscale_mini": Template(
        "Draw an image and upscale it (mini world)",
        "Draws an image at the mini world's native 128 px and upscales it 2x, region by region, as *Upscale your image* does. Everything it needs comes with Loupe: press Run, then change the prompt, scale_by or creativity. It takes about 5 seconds on one core of a server; a laptop may take a few times as long.",
    ),
    "cupscale": Template(
        "Upscale 2x with C-Upscale (mini world)",
        "C-Upscale: each region is redrawn with a caption of its own (RSP), written by the mini world from what stands there, while two priors hold it to the structure (GSP) and the attention (RAP) of the whole image. The same regions without the three stand beside it for comparison. It takes about 12 seconds on one core of a server; a laptop may take a few times as long.",
    ),
    "clearsr": Template(
        "Restore a poor image 2x with ClearSR (mini world)",
        "Draws an image of the mini world, blurs it, adds noise, and restores it at twice the size with ClearSR: control networks that look at the image's latent, region by region. Latent Adjustment holds the first steps to the image. Put Load Image in place of the example for one of your own; other models need a ClearSR file made for them by `python dev.py train clearsr`. It takes about 5 seconds on one core of a server; a laptop may take a few times as long.",
    ),
    "compare": Template(
        "Compare six ways to upscale (mini world)",
        "One image upscaled 2x in six ways, side by side: in pixels, with LSR alone, with Regional Denoise alone, with LSRNA-DemoFusion, with PixelSmith and with C-Upscale. Change the prompt or the seed of the reference and run it again. It takes about 15 seconds on one core of a server; a laptop may take a few times as long.",
    ),
    "arbitrary_scale": Template(
        "Draw one latent for any size (mini world)",
        "Draws a small image, shows it to a denoiser that makes one larger latent of it, and decodes that latent at 2x, 3.7x and 8x with the implicit decoder. The three images agree with each other because they are one latent; any other size is as good. It takes about 5 seconds on one core of a server; a laptop may take a few times as long.",
    ),
}
