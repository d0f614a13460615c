"""`train mini-unet`: the mini world's denoiser, with the bundled text encoder frozen, on latents of whole scenes and of zoom crops.

Size micro-conditioning as in SDXL (original size, crop origin, target size). A zoom crop of a render of side S at
(y, x) is told S, (y, x) and, half of the time each, the render's or the image's own size as target; a whole scene
is told crop (0, 0). So "canvas" conditioning of regions has been seen in training, as with SDXL's own crops.
"""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import numpy as np
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from ...methods.schedules import alphas_cumprod, diffused
from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.vae import MiniVAE
from ...models.mini.world import NATIVE_SIZE, UNET_CONFIG
from ..command_line import launch, options_parser, provenance
from ..images import shrink, to_tensor
from ..loop import Loop
from .scenes import caption, crop_caption, mirrored, sample_scene
from .shards import Images
from .text import UNKNOWN_ROW, Vocabulary, encode_text, load_text_model

CROPS_PER_SCENE = 10
WHOLE_SHARE = 0.68


def attention_of_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Heads (B, heads, N, d) to rows (B, N, heads * d) by plain matrix products: at these sizes the CPU's fused attention
    spends a third of a step in its backward pass."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(-2)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`attention_of_heads` of rows (B, N, heads * d)."""
    return attention_of_heads(*(t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)), mask)


def attention_override(original, q, k, v, heads, mask=None, **kwargs):
    return attention(q, k, v, heads, mask)


def load_vae() -> tuple[MiniVAE, float]:
    """The bundled autoencoder in float32 and its latent scale factor."""
    weights, metadata = file.load("vae")
    vae = MiniVAE().to(memory_format=torch.channels_last)
    vae.load_state_dict({k: v.float() for k, v in weights.items()})
    return vae.train(False), metadata.latents.scale_factor


@torch.no_grad()
def encode(vae: MiniVAE, images: list[np.ndarray], device: str) -> torch.Tensor:
    """Unscaled latents of equally sized images, on the CPU."""
    out = []
    for i in range(0, len(images), 50):
        with torch.autocast(device, torch.bfloat16):
            out.append(vae.encode(to_tensor(np.stack(images[i:i + 50])).to(device)).float().cpu())
    return torch.cat(out)


def zoom_crops(large: Images, scenes: range):
    """Crops of 128 px from renders of side 192..512, most near a thing: (image, side, y, x, full caption, visible caption)."""
    for i in scenes:
        rng = np.random.RandomState(i)
        scene, image = sample_scene(large.seed(i)), large[i]
        for _ in range(CROPS_PER_SCENE):
            side = 8 * rng.randint(24, 65)
            resized, span = shrink(image, side), side - NATIVE_SIZE
            if rng.rand() < 0.6:
                thing = scene.things[rng.randint(len(scene.things))]
                x, y = (int(np.clip((c + rng.uniform(-0.15, 0.15)) * side - NATIVE_SIZE / 2, 0, span)) for c in (thing.x, thing.y))
            else:
                x, y = rng.randint(0, span + 1, 2)
            visible = crop_caption(scene, x / side, y / side, NATIVE_SIZE / side)
            yield resized[y:y + NATIVE_SIZE, x:x + NATIVE_SIZE], side, y, x, caption(scene), visible


class Encoder:
    """Pool worker: scaled latents and captions of one run of scenes."""

    def __init__(self, options):
        torch.set_num_threads(1)
        self.device = options.device
        self.vae, self.scale = load_vae()
        self.vae.to(self.device)
        self.base, self.large = Images(options.out / "scenes", "base"), Images(options.out / "scenes", "large")

    def encode(self, images: list[np.ndarray]) -> np.ndarray:
        return (encode(self.vae, images, self.device) * self.scale).numpy()

    def run(self, kind: str, scenes: range):
        if kind == "whole":
            words = [caption(sample_scene(self.base.seed(i))) for i in scenes]
            return self.encode([self.base[i] for i in scenes]), words
        if kind == "mirrored":
            words = [mirrored(caption(sample_scene(self.base.seed(i)))) for i in scenes]
            return self.encode([self.base[i][:, ::-1] for i in scenes]), words
        crops = list(zoom_crops(self.large, scenes))
        return self.encode([c[0] for c in crops]), [c[1:] for c in crops]


def encode_job(job: tuple):
    options, kind, scenes = job
    return Encoder(options).run(kind, scenes)


def prepare(options) -> None:
    """Encode all training images once to `latents.safetensors`."""
    path = options.out / "latents.safetensors"
    if path.exists():
        return
    base, large = len(Images(options.out / "scenes", "base")), len(Images(options.out / "scenes", "large"))
    jobs = [(options, kind, range(i, i + 500)) for kind in ("whole", "mirrored") for i in range(0, base, 500)]
    jobs += [(options, "zoom", range(i, i + 50)) for i in range(0, large, 50)]
    if options.device == "cpu" and options.ranks > 1:
        with torch.multiprocessing.get_context("fork").Pool(options.ranks) as pool:
            done = list(tqdm(pool.imap(encode_job, jobs), total=len(jobs), desc="encoding"))
    else:
        done = [encode_job(job) for job in tqdm(jobs, desc="encoding")]
    whole = [d for d, (_, kind, _) in zip(done, jobs) if kind != "zoom"]
    zoom = [d for d, (_, kind, _) in zip(done, jobs) if kind == "zoom"]
    vocabulary = Vocabulary()
    crops = [crop for _, part in zoom for crop in part]
    tensors = {
        "whole": torch.cat([torch.from_numpy(z) for z, _ in whole]),
        "whole_rows": vocabulary.rows([words for _, part in whole for words in part]),
        "zoom": torch.cat([torch.from_numpy(z) for z, _ in zoom]),
        "zoom_place": torch.tensor([crop[:3] for crop in crops]),
        "zoom_rows": vocabulary.rows([crop[3] for crop in crops]),
        "zoom_visible_rows": vocabulary.rows([crop[4] for crop in crops]),
        "empty_rows": vocabulary.rows([""]),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def initialize(unet: UNetModel) -> UNetModel:
    """Seeded default initialization (ComfyUI's layers start empty), residual outputs at zero."""
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, a=5 ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name == "out.2" or name.endswith(("proj_out", "out_layers.3")):
                nn.init.zeros_(module.weight)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def draw_batch(data: dict[str, torch.Tensor], count: int, g: torch.Generator, visible_share: float = 0.5):
    """Latents (B, 4, 16, 16), whole scenes before crops; caption rows (B, 32); sizes (B, 6) as (height, width, crop y, crop x,
    target height, target width). visible_share of the crops have the caption of what they show, the others their scene's."""
    n = round(count * WHOLE_SHARE)
    i = torch.randint(len(data["whole"]), (n,), generator=g)
    j = torch.randint(len(data["zoom"]), (count - n,), generator=g)
    latents = torch.cat([data["whole"][i], data["zoom"][j]])
    visible = torch.rand(count - n, 1, generator=g) < visible_share
    rows = torch.cat([data["whole_rows"][i], torch.where(visible, data["zoom_visible_rows"][j], data["zoom_rows"][j])])

    native = torch.full((n,), NATIVE_SIZE)
    side = torch.where(torch.rand(n, generator=g) < 0.6, native, torch.randint(NATIVE_SIZE, 513, (n,), generator=g))
    side = torch.cat([side, data["zoom_place"][j, 0]])
    crop = torch.cat([torch.zeros(n, 2, dtype=torch.int64), data["zoom_place"][j, 1:]])
    shifted = torch.cat([torch.zeros(n), (torch.rand(count - n, generator=g) < 0.5).float()])[:, None]
    crop = crop + (shifted * 2 * 8).long()
    target = torch.where(torch.rand(count, generator=g) < 0.5, side, NATIVE_SIZE)
    sizes = torch.stack([side, side, crop[:, 0], crop[:, 1], target, target], 1)

    rows = torch.where(torch.rand(rows.shape, generator=g) < 0.005, UNKNOWN_ROW, rows)
    rows = torch.where(torch.rand(count, 1, generator=g) < 0.1, data["empty_rows"], rows)
    return latents, rows, sizes


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device = options.device
    vocabulary = Vocabulary()
    data = load_file(options.out / "latents.safetensors")
    unet = UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    if options.start:
        unet.load_state_dict({k: v.float() for k, v in file.load("unet", options.start)[0].items()})
    else:
        initialize(unet)
    unet.to(device)
    text = load_text_model(vocabulary).to(device)
    alphas = alphas_cumprod()
    loop = Loop("mini-unet", {"unet": unet}, rank, options, lr=options.lr, weight_decay=1e-3, warmup=50 if options.start else 200, hold=0.4, ema=0.999)
    for step, g in loop:
        latents, rows, sizes = draw_batch(data, options.batch, g)
        t = torch.randint(1000, (options.batch,), generator=g)
        noise = torch.randn(latents.shape, generator=g)
        alpha = alphas[t].view(-1, 1, 1, 1)
        x = diffused(latents, noise, alpha)
        x, noise, alpha, t, rows = (v.to(device) for v in (x, noise, alpha, t, rows))
        size_embedding = timestep_embedding(sizes.flatten().float(), 256).view(options.batch, -1).to(device)
        with torch.autocast(device, torch.bfloat16):
            context, pooled = encode_text(text, rows, vocabulary.end_row, attention)
            y = torch.cat([pooled, size_embedding], 1)
            eps = unet(x, t.float(), context, y, transformer_options={"optimized_attention_override": attention_override}).float()
        error = (eps - noise).square()
        snr = alpha / (1 - alpha)
        # the noisiest steps decide what goes where, which is little of their error
        loss = (error * snr.clamp(max=5) / snr * (1 / snr).clamp(1, 10)).mean()
        loop.update(loss, mse=error.mean().item())
    if rank == 0:
        made = provenance("mini-unet --start" if options.start else "mini-unet", options, loop.seconds)
        file.save("unet", {k[5:]: v for k, v in loop.averaged().items()}, Metadata(file.metadata_of("vae").latents, notes=made), options.save)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-unet", __doc__, steps=9000, batch=24)
    parser.add_argument("--start", type=Path, nargs="?", const=file.path_of("unet"), help="go on from these weights, without a file from the bundled ones, after a short warm-up")
    parser.add_argument("--lr", type=float, help="default 7e-4, with --start 4e-4")
    options = parser.parse_args(argv)
    options.lr = options.lr or (4e-4 if options.start else 7e-4)
    prepare(options)
    launch(train, options)
