"""`train clearsr`: ClearSR's control networks and LoRAs (arXiv 2410.14279) on a frozen base.

Loss: the base's noise prediction. An image is made worse as Real-ESRGAN does it, enlarged to its old size and encoded
by the VAE with LoRA; DPM and GSPM steer the UNet, whose decoder has a LoRA. `--base mini` trains on the mini world's
scenes, with the caption for half of them and no image prompt; `--base FILE.safetensors` on a folder of images for an
SD2.1-base checkpoint, with the empty prompt and, with `--clip-vision`, the image prompt.

Steps, batch, learning rate, ranks and window are the paper's. The paper says nothing of the rest, which is Loupe's: the
learning rate rises over 100 steps and falls to 2 % after --hold, Adam's betas are 0.9 and 0.99, gradients are clipped to
norm 1, averaged weights are saved, the networks run in bfloat16, one batch in ten sees no image prompt.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

import comfy.clip_vision
import comfy.ops
import comfy.sd
import cv2
import folder_paths
import numpy as np
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import nn

from ..methods.schedules import alphas_cumprod, diffused
from ..models.clearsr import ClearSR, Config, load, save
from ..models.clearsr.file import LORAS
from ..models.clearsr.image_prompt import ImagePrompt
from ..models.files import BUNDLED, Metadata
from ..models.latent_space import LatentSpace
from ..models.mini import file
from ..models.mini.world import NATIVE_SIZE, UNET_CONFIG
from .command_line import launch, options_parser, provenance
from .degradation import degrade
from .images import report, scan, shrink, to_tensor
from .loop import Loop
from .lora import LoRA
from .mini.denoiser import attention, attention_override, load_vae
from .mini.scenes import caption, crop_caption, sample_scene
from .mini.shards import Images
from .mini.text import Vocabulary, encode_text, load_text_model

IMAGE_PROMPT_DROPOUT = 0.1


@dataclass
class Base:
    """A frozen model: `encode` takes images (B, 3, H, W) in [-1, 1] to scaled latents, `alphas` are the 1000
    cumulative products of its schedule; `images(rng)` gives a uint8 image and what `condition` wants to know of it,
    `condition` takes a list of that to (context, y)."""

    unet: nn.Module
    encoder: nn.Module
    encode: Callable
    config: Config
    alphas: torch.Tensor
    images: Callable
    condition: Callable
    metadata: Metadata
    options: dict


def mini_base(options) -> Base:
    """The mini world, from the bundled files."""
    device = options.device
    unet = UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    unet.load_state_dict({k: v.float() for k, v in file.load("unet")[0].items()})
    vae, scale = load_vae()
    vae.to(device)
    vocabulary = Vocabulary()
    text = load_text_model(vocabulary).to(device)
    base, large = Images(options.out / "scenes", "base"), Images(options.out / "scenes", "large")

    def image(rng):
        """Half whole scenes, half squares of larger renders, told where they are as in `train mini-unet`."""
        words = rng.rand() < options.caption_share
        if rng.rand() < 0.5:
            i = rng.randint(len(base))
            return base[i], (caption(sample_scene(base.seed(i))) if words else "", (NATIVE_SIZE, 0, 0))
        i, side = rng.randint(len(large)), 8 * rng.randint(24, 65)
        y, x = 8 * rng.randint(0, (side - NATIVE_SIZE) // 8 + 1, 2)
        seen = crop_caption(sample_scene(large.seed(i)), x / side, y / side, NATIVE_SIZE / side)
        return shrink(large[i], side)[y : y + NATIVE_SIZE, x : x + NATIVE_SIZE], (seen if words else "", (side, y, x))

    def condition(known):
        rows = vocabulary.rows([words for words, _ in known])
        sizes = torch.tensor([[side, side, y, x, side, side] for _, (side, y, x) in known])
        context, pooled = encode_text(text, rows.to(device), vocabulary.end_row, attention)
        embedded = timestep_embedding(sizes.flatten().float(), 256).view(len(known), -1).to(device)
        return context, torch.cat([pooled, embedded], 1)

    return Base(
        unet.to(device),
        vae,
        lambda x: vae.encode(x).float() * scale,
        config_of(UNET_CONFIG, options),
        alphas_cumprod(),
        image,
        condition,
        Metadata(LatentSpace("custom", 4, scale), "Loupe mini world"),
        {"optimized_attention_override": attention_override},
    )


def checkpoint_base(options) -> Base:
    """An SD2.1-base checkpoint, or another of ComfyUI's UNets that predict noise and know no size conditioning."""
    device = options.device
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(options.base), output_vae=True, output_clip=True)
    unet, kind = model.model.diffusion_model.float(), model.model.model_type.name
    if not isinstance(unet, UNetModel) or unet.num_classes is not None or kind != "EPS":
        raise SystemExit(f"--base {options.base} is a {type(model.model).__name__} with {kind} prediction; ClearSR needs a noise-predicting UNet without size conditioning (SD2.1-base)")
    if model.model.model_config.unet_config["num_head_channels"] < 1:
        raise SystemExit(f"--base {options.base} is a {type(model.model).__name__} with a fixed number of attention heads; ClearSR needs heads of one width on all levels (SD2.1-base)")
    empty = clip.encode_from_tokens(clip.tokenize("")).to(device)
    found = scan(options.images, options.square)
    report(options.images, found, options.square)
    images = list(found.usable.values())
    first, latents = vae.first_stage_model.float().to(device), model.model.latent_format

    def image(rng):
        """A random square of side `--square`, mirrored half of the time."""
        image = images[rng.randint(len(images))].read()
        y, x = (rng.randint(0, side - options.square + 1) for side in image.shape[:2])
        image = image[y : y + options.square, x : x + options.square]
        return image[:, ::-1] if rng.rand() < 0.5 else image, None

    return Base(
        unet.to(device),
        first,
        lambda x: latents.process_in(first.encode(x).float()),
        config_of(model.model.model_config.unet_config, options),
        1 / (1 + model.model.model_sampling.sigmas.float() ** 2),
        image,
        lambda known: (empty.expand(len(known), -1, -1), None),
        Metadata(LatentSpace(type(latents).__name__, latents.latent_channels), options.base.stem),
        {},
    )


def config_of(unet: dict, options) -> Config:
    """ClearSR's shape for a UNet of this configuration (ComfyUI's words)."""
    return Config(
        in_channels=unet["in_channels"],
        model_channels=unet["model_channels"],
        channel_mult=tuple(unet["channel_mult"]),
        num_res_blocks=tuple(unet["num_res_blocks"]),
        transformer_depth=tuple(unet["transformer_depth"]),
        transformer_depth_middle=unet["transformer_depth_middle"],
        context_dim=unet["context_dim"],
        head_channels=unet["num_head_channels"],
        use_linear=unet["use_linear_in_transformer"],
        adm_in_channels=unet.get("adm_in_channels"),
        window=options.window,
        gspm=not options.no_gspm,
        gspm_middle=options.gspm_middle,
    )


def build(base: Base, options) -> dict[str, nn.Module]:
    """What is trained: the control networks and the LoRAs, hooked into the frozen base."""
    base.unet.requires_grad_(False)
    base.encoder.requires_grad_(False)
    net = ClearSR(base.config, torch.float32)
    net.initialize({k: v.cpu() for k, v in base.unet.state_dict().items()})
    modules: dict[str, nn.Module] = {"control": net}
    if options.rank_unet:
        modules["unet"] = LoRA(base.unet, lambda name: name.startswith("output_blocks.") and (".attn1." in name or ".attn2." in name), options.rank_unet)
    if options.rank_vae:
        modules["vae"] = LoRA(base.encoder, lambda name: name.startswith("encoder."), options.rank_vae)
    return {name: module.to(options.device) for name, module in modules.items()}


def go_on_from(path: Path, modules: dict[str, nn.Module]) -> None:
    """Put a ClearSR file's weights into the networks in training."""
    kept, _ = load(str(path))
    try:
        modules["control"].load_state_dict({k: v.float() for k, v in kept.state_dict().items()})
        for name, prefix in LORAS.items():
            if name in modules:
                modules[name].start_from(kept.loras[name], prefix)
    except RuntimeError as error:
        raise SystemExit(f"--start {path} was trained with other options (--window, --rank-unet, --rank-vae, --no-gspm, --gspm-middle) or for another base: {error}") from None


def low_quality(images: Sequence[np.ndarray], rng: np.random.RandomState, options) -> list[np.ndarray]:
    """Degraded images, enlarged to their old size by bicubic interpolation."""
    return [cv2.resize(degrade(p, rng, rng.uniform(min(options.scale), max(options.scale)), options.strength), p.shape[1::-1], interpolation=cv2.INTER_CUBIC) for p in images]


def loss_of(base: Base, modules, vision, g: torch.Generator, options) -> torch.Tensor:
    """The noise-prediction loss (the paper's equation 1) of a batch of images drawn by `g`."""
    device, count = options.device, options.batch
    rng = np.random.RandomState(torch.randint(1 << 31, (), generator=g).item())
    images, known = zip(*(base.images(rng) for _ in range(count)))
    low = low_quality(images, rng, options)
    t = torch.randint(len(base.alphas), (count,), generator=g)
    alpha = base.alphas[t].view(-1, 1, 1, 1).to(device)
    transformer = dict(base.options)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        lora = modules.get("vae")
        z = encode_without(base, lora, to_tensor(np.stack(images)).to(device))
        context, y = base.condition(known)
        if vision is not None and torch.rand((), generator=g) >= IMAGE_PROMPT_DROPOUT:
            shown = torch.from_numpy(np.stack(low)).float() / 255
            transformer["patches"] = {"attn2_patch": [ImagePrompt(vision.encode_image(shown)["image_embeds"].to(device))]}
    noise = torch.randn(z.shape, generator=g).to(device)
    x, t = diffused(z, noise, alpha), t.to(device).float()
    with torch.autocast(device, torch.bfloat16):
        x_lr = base.encode(to_tensor(np.stack(low)).to(device))
        control = modules["control"](x, x_lr, t, context, y)
        eps = base.unet(x, t, context, y, control=control, transformer_options=transformer)
    return (eps.float() - noise).square().mean()


def encode_without(base: Base, lora: LoRA | None, x: torch.Tensor) -> torch.Tensor:
    """Scaled latents by the encoder as it was."""
    if lora is None:
        return base.encode(x)
    lora.on = False
    z = base.encode(x)
    lora.on = True
    return z


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(options.seed)
    base = mini_base(options) if str(options.base) == "mini" else checkpoint_base(options)
    modules = build(base, options)
    if options.start:
        go_on_from(options.start, modules)
    vision = comfy.clip_vision.load(str(options.clip_vision)) if options.clip_vision else None
    loop = Loop(options.name, modules, rank, options, lr=options.lr, weight_decay=0, warmup=100, hold=options.hold, ema=0.998)
    for _, g in loop:
        for _ in range(options.accumulate - 1):
            (loss_of(base, modules, vision, g, options) / options.accumulate).backward()
        loop.update(loss_of(base, modules, vision, g, options) / options.accumulate)
    if rank == 0:
        weights = {name: {k[len(name) + 1 :]: v for k, v in loop.averaged().items() if k.startswith(f"{name}.")} for name in LORAS}
        notes = {**provenance(options.command, options, loop.seconds), "learning_rate": str(options.lr), "scale": "-".join(map(str, options.scale)), "strength": str(options.strength), "image_prompt": str(int(vision is not None))}
        net = modules["control"]
        loop.load_average()
        net.loras = {name: LoRA.export(weights.get(name, {}), prefix) for name, prefix in LORAS.items()}
        save(options.save, net, base.metadata._replace(notes=notes))


def main(argv: list[str], command: str = "clearsr") -> None:
    parser = options_parser("clearsr", __doc__, steps=150_000, batch=8)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--base", type=Path, default=Path("mini"), help="'mini', or an SD2.1-base checkpoint file")
    parser.add_argument("--name", default="mini-clearsr", help="of checkpoint and log in OUT")
    parser.add_argument("--images", type=Path, help="folder of images for a checkpoint file")
    parser.add_argument("--start", type=Path, nargs="?", const=BUNDLED / "mini_clearsr.safetensors", help="go on from this file, without a name from the bundled one")
    parser.add_argument("--square", type=int, default=512, help="side of the squares cut from them, in pixels")
    parser.add_argument("--clip-vision", type=Path, help="image encoder whose embedding is as wide as the context: the image prompt")
    parser.add_argument("--lr", type=float, default=5e-5, help="learning rate (the paper's by default)")
    parser.add_argument("--hold", type=float, default=0.4, help="share of the steps before the learning rate falls")
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step")
    parser.add_argument("--window", type=int, default=16, help="side of an attention window in latent cells, 0 for no window attention")
    parser.add_argument("--rank-unet", type=int, default=16, help="0: no LoRA on the UNet's decoder")
    parser.add_argument("--rank-vae", type=int, default=16, help="0: no LoRA on the VAE's encoder")
    parser.add_argument("--no-gspm", action="store_true")
    parser.add_argument("--gspm-middle", action="store_true", help="GSPM with a middle block")
    parser.add_argument("--scale", type=float, nargs="+", default=[4], help="how much smaller degraded images are; two numbers: anything between them")
    parser.add_argument("--strength", type=float, default=1, help="of the degradation; 1 is Real-ESRGAN's")
    parser.add_argument("--caption-share", type=float, default=0.5, help="of mini-world images that come with their caption")
    options = parser.parse_args(argv)
    mini = str(options.base) == "mini"
    options.command = command if command != "clearsr" else f"clearsr --base {options.base.name}"
    options.command += " --start" if options.start else ""
    options.save = options.save or (BUNDLED / "mini_clearsr.safetensors" if mini else Path(folder_paths.get_folder_paths("controlnet")[0]) / "clearsr.safetensors")
    if not mini and options.images is None:
        parser.error("--base FILE needs --images FOLDER")
    launch(train, options)
