"""`train mini-lsr`: latent super-resolution on the mini world, after LSRNA's recipe (Jeong et al., CVPR 2025).

Pairs as in the paper: the high-resolution picture and its antialiased bicubic reductions are encoded separately, a
random square of the low-resolution latent is upscaled and compared on a square of the target grid. Beside the paper's
L1 on latents, an L1 between the decoded squares (`--pixel-weight`, 0 = the paper's loss alone) stands in for the
million iterations that this network does not get.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ...methods.regions import Region
from ...models.lsr import LSR
from ...models.lsr import save as save_lsr
from ...models.lsr.checkpoint import LatentSpace
from ...models.mini.world import FOLDER
from ..loop import Loop, launch, options_parser, provenance
from .shards import Pictures
from .unet import load_vae
from .vae import to_tensor

ARGS = {"channels": 4, "dim": 48, "depths": (4, 4, 4), "heads": (4, 4, 4), "window": 8, "hidden": (128, 128, 128)}
CROP = 16
SQUARE = 32
# picture sides of (low, high): x2 and x4 onto 512, x3 onto 504, x2 onto 256
SIDES = [(256, 512), (128, 512), (168, 504), (128, 256)]


def bicubic(x: torch.Tensor, side: int) -> torch.Tensor:
    """Antialiased bicubic (a = -0.5) on [-1, 1], quantised downwards to 8 bit as in the paper's code."""
    y = F.interpolate(x, (side, side), mode="bicubic", antialias=True)
    return ((y + 1) * 127.5).clamp(0, 255).floor() / 127.5 - 1


def pyramid(vae, picture, scale: float) -> dict[int, torch.Tensor]:
    """Scaled latents (1, 4, side / 8, side / 8) of a 512 px uint8 picture at every side of `SIDES`."""
    full = to_tensor(picture[None])
    sides = {512: full, 504: full[..., 4:508, 4:508]}
    sides[256], sides[128], sides[168] = bicubic(full, 256), bicubic(full, 128), bicubic(sides[504], 168)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return {side: vae.encode(x.contiguous(memory_format=torch.channels_last)).float() * scale for side, x in sides.items()}


def prepare(options) -> None:
    """Encode the large pictures once to `lsr_pairs.safetensors`."""
    path = options.out / "lsr_pairs.safetensors"
    if path.exists():
        return
    vae, scale = load_vae()
    large = Pictures(options.out / "scenes", "large")
    latents: dict[int, list[torch.Tensor]] = {}
    for i in tqdm(range(min(options.pictures, len(large))), desc="encoding"):
        for side, z in pyramid(vae, large[i], scale).items():
            latents.setdefault(side, []).append(z.half())
    save_file({str(side): torch.cat(z).contiguous() for side, z in latents.items()}, path)


def draw(data: dict[str, torch.Tensor], count: int, g: torch.Generator):
    """(z (B, 4, 16, 16), target square (B, 4, 32, 32), target grid size, the square's region)."""
    low, high = SIDES[torch.randint(len(SIDES), (), generator=g).item()]
    factor = high // low
    size = CROP * factor
    z, target = [], []
    square = Region(*(torch.randint(size - SQUARE + 1, (2,), generator=g).tolist()), SQUARE, SQUARE)
    for i in torch.randint(len(data["512"]), (count,), generator=g).tolist():
        y, x = torch.randint(low // 8 - CROP + 1, (2,), generator=g).tolist()
        z.append(data[str(low)][i, :, y:y + CROP, x:x + CROP])
        target.append(square.crop(data[str(high)][i, :, y * factor:y * factor + size, x * factor:x * factor + size]))
    return torch.stack(z).float(), torch.stack(target).float(), (size, size), square


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device = options.device
    data = load_file(options.out / "lsr_pairs.safetensors")
    vae, scale = load_vae()
    vae.to(device).requires_grad_(False)
    net = LSR(**ARGS, drop_path=0.0).to(device).train()
    loop = Loop("mini-lsr", {"lsr": net}, rank, options, lr=options.lr, weight_decay=0, warmup=100, ema=0.998)
    for step, g in loop:
        z, target, size, square = draw(data, options.batch, g)
        z, target = z.to(device), target.to(device)
        with torch.autocast(device, torch.bfloat16):
            out = net.window(z, size, square).float()
            latent_loss = (out - target).abs().mean()
            if options.pixel_weight > 0:
                inner = (..., slice(None, 20), slice(None, 20))
                pixels = (vae.decode(out[inner] / scale).float() - vae.decode(target[inner] / scale).float())[..., 16:-16, 16:-16].abs().mean()
            else:
                pixels = torch.zeros((), device=device)
        loop.update(latent_loss + options.pixel_weight * pixels, latent=latent_loss.item(), pixels=pixels.item())
    if rank == 0:
        loop.load_average()
        space = LatentSpace("custom", 4, scale)
        save_lsr(net.eval(), FOLDER / "mini_lsr.safetensors", space, dtype=torch.float16, metadata={**provenance("mini-lsr", options, loop.seconds), "pixel_weight": str(options.pixel_weight)})


def main(argv: list[str]) -> None:
    parser = options_parser("mini-lsr", __doc__, steps=6000, batch=12)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--pictures", type=int, default=2000, help="512 px pictures to learn from")
    parser.add_argument("--pixel-weight", type=float, default=4.0)
    options = parser.parse_args(argv)
    prepare(options)
    launch(train, options)
