"""`train mini-flow-lora`: a LoRA with which the mini world's flow transformer draws in 4 to 8 steps at guidance scale 1.

First guidance is distilled: the network with LoRA learns, in one call, the velocity that the network without it has with
classifier-free guidance. Then paths are straightened (rectified flow on pairs, Liu et al., 2022): pairs of noise and what
the guided teacher draws from it, in 16 Euler steps, take the place of latents and fresh noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.ldm.lumina.model import NextDiT
from safetensors.torch import load_file, save_file

from ...models.files import Metadata
from ...models.mini import file
from ..command_line import launch, options_parser, provenance
from ..loop import Loop
from ..lora import LoRA
from . import flow
from .denoiser import draw_batch, prepare

PREFIX = "lora_unet_"
GUIDANCE = 4.0
GUIDANCE_SHARE = 0.3  # of the training before paths are straightened
TEACHER_STEPS = 16


def guided(net: NextDiT, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """The teacher's velocity with guidance, for contexts (B, 32, 128) and the empty prompt's (1, 32, 128)."""
    both = torch.cat([context, empty.expand_as(context)])
    conditional, unconditional = flow.velocity(net, x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
    return unconditional + GUIDANCE * (conditional - unconditional)


@torch.no_grad()
def drawn(net: NextDiT, noise: torch.Tensor, context: torch.Tensor, empty: torch.Tensor, steps: int = TEACHER_STEPS) -> torch.Tensor:
    """Latents (B, 4, H, W) that the guided teacher draws from `noise`."""
    x = noise
    levels = flow.shifted(torch.linspace(1, 0, steps + 1)).to(noise)
    for level, following in zip(levels, levels[1:]):
        x = x + (following - level) * guided(net, x, level.expand(len(x)), context, empty)
    return x


def prepare_pairs(net: NextDiT, captions: flow.Captions, data: dict[str, torch.Tensor], options) -> dict[str, torch.Tensor]:
    """`noise`, `latents` (N, 4, 16, 16) and caption `rows` (N, 32), drawn once to `flow_pairs.safetensors`."""
    path = options.out / "flow_pairs.safetensors"
    if path.exists():
        return load_file(path)
    g, parts = torch.Generator().manual_seed(options.seed), []
    empty = captions(data["empty_rows"])
    for _ in range(0, options.pairs, options.batch):
        rows = data["whole_rows"][torch.randint(len(data["whole_rows"]), (options.batch,), generator=g)]
        noise = torch.randn(options.batch, *data["whole"].shape[1:], generator=g)
        parts.append((noise, drawn(net, noise.to(options.device), captions(rows), empty).cpu(), rows))
    pairs = dict(zip(("noise", "latents", "rows"), map(torch.cat, zip(*parts))))
    save_file(pairs, path)
    return pairs


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device = options.device
    data = load_file(options.out / "latents.safetensors")
    net = flow.build(file.load("flow", options.base)[0]).to(device).requires_grad_(False)
    captions = flow.Captions(device)
    empty = captions(data["empty_rows"])
    pairs = prepare_pairs(net, captions, data, options)
    lora = LoRA(net, lambda name: name.startswith("layers."), options.rank).to(device)
    loop = Loop("mini-flow-lora", {"lora": lora}, rank, options, lr=options.lr, weight_decay=0, warmup=50, hold=GUIDANCE_SHARE, ema=0.99)
    with flow.differentiable():
        for _, g in loop:
            straighten = loop.progress() >= GUIDANCE_SHARE
            if straighten:
                i = torch.randint(len(pairs["rows"]), (options.batch,), generator=g)
                latents, rows, noise = (pairs[key][i] for key in ("latents", "rows", "noise"))
                sigma = flow.shifted(torch.rand(options.batch, generator=g))
            else:
                latents, rows, _ = draw_batch(data, options.batch, g, visible_share=1)
                sigma, noise = flow.draw_sigmas(options.batch, g), torch.randn(latents.shape, generator=g)
            latents, sigma, noise = (v.to(device) for v in (latents, sigma, noise))
            context, s = captions(rows), sigma.view(-1, 1, 1, 1)
            x = (1 - s) * latents + s * noise
            target = noise - latents
            if not straighten:
                lora.on = False
                with torch.no_grad():
                    target = guided(net, x, sigma, context, empty)
                lora.on = True
            loop.update((flow.velocity(net, x, sigma, context) - target).square().mean(), straighten=float(straighten))
    if rank == 0:
        made = provenance("mini-flow-lora", options, loop.seconds)
        file.save("flow_lora", LoRA.export({k[5:]: v for k, v in loop.averaged().items()}, PREFIX), Metadata(notes={"guidance": str(GUIDANCE), **made}), options.save)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-flow-lora", __doc__, steps=1500, batch=32)
    parser.add_argument("--base", type=Path, default=file.path_of("flow"), help="the flow transformer")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA")
    parser.add_argument("--pairs", type=int, default=2048, help="that the teacher draws, kept in OUT")
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args(argv)
    prepare(options)
    launch(train, options)
