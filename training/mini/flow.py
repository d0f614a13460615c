"""`train mini-flow`: the mini world's flow transformer, ComfyUI's NextDiT in the layout of Z-Image, on the latents and
captions of `train mini-unet`.

Rectified flow: x = (1 - sigma) latent + sigma noise, the network learns the velocity noise - latent. Sigma is uniform and
then shifted by 3, as it is sampled. Padding tokens of captions are zero, which makes them one and the same to the network
(ComfyUI's NextDiT ignores masks).

The network knows no sizes, so a crop's caption says what the crop shows, and crops are seen up to sigma 0.9 only: before,
where a caption decides the layout, everything is a whole scene.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.lumina.model import NextDiT
from comfy.model_sampling import time_snr_shift
from safetensors.torch import load_file
from torch import nn

from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.world import FLOW_CONFIG, FLOW_SHIFT
from ..command_line import launch, options_parser, provenance
from ..loop import Loop
from .denoiser import WHOLE_SHARE, attention, attention_of_heads, draw_batch, prepare
from .text import Vocabulary, encode_text, load_text_model

CROP_SIGMA = 0.9
GATE = 0.5


def token_attention(original, q, k, v, heads, mask=None, **kwargs):
    """optimized_attention_override: the transformer gives heads, and nothing is masked."""
    return attention_of_heads(q, k, v)


@contextmanager
def differentiable():
    """ComfyUI's transformer with operations that have a gradient."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def initialize(net: NextDiT) -> NextDiT:
    """Seeded initialization (ComfyUI's layers start empty): modulation starts as one and the same for all noise levels,
    with gates half open, and the output is zero."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name == "final_layer.linear" or "adaLN_modulation" in name:
                nn.init.zeros_(module.weight)
            if name.endswith("adaLN_modulation.0"):
                nn.init.constant_(module.bias.unflatten(0, (2, 2, -1))[:, 1], GATE)  # (attention, feed-forward) x (scale, gate)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
    return net


def build(weights: dict[str, torch.Tensor] | None = None) -> NextDiT:
    """The network in float32, with these weights or initialized."""
    net = NextDiT(**FLOW_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    if weights is None:
        return initialize(net)
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    return net


def shifted(u: torch.Tensor) -> torch.Tensor:
    """Noise levels of shift 3 from evenly spread ones, both in [0, 1]."""
    return time_snr_shift(FLOW_SHIFT, u)


def unshifted(sigma: float) -> float:
    return sigma / (FLOW_SHIFT - (FLOW_SHIFT - 1) * sigma)


class Captions:
    """Caption rows (B, 32) to the text states (B, 32, 128) that the network sees: the frozen encoder's, zero behind the end."""

    def __init__(self, device: str):
        self.device, vocabulary = device, Vocabulary()
        self.end, self.model = vocabulary.end_row, load_text_model(vocabulary).to(device)

    @torch.no_grad()
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.device)
        states, _ = encode_text(self.model, rows, self.end, attention)
        ends = (rows == self.end).int()
        return states * (ends.cumsum(1) - ends == 0)[..., None]


def velocity(net: NextDiT, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The network's velocity (B, 4, H, W) at x and sigma (B,), in float32."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return net(x, sigma, context, context.shape[1], transformer_options={"optimized_attention_override": token_attention}).float()


def compile_layers(net: NextDiT) -> None:
    """Fuse what surrounds the matrix products of each layer. Needs a C++ compiler on a CPU; a minute at the start."""
    for fuse in [layer.compile for layer in (*net.context_refiner, *net.noise_refiner, *net.layers)]:
        fuse(dynamic=False)


def draw_sigmas(count: int, g: torch.Generator) -> torch.Tensor:
    """Of a batch (B,) of whole scenes and then crops."""
    u = torch.rand(count, generator=g)
    u[round(count * WHOLE_SHARE):] *= unshifted(CROP_SIGMA)
    return shifted(u)


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device = options.device
    data = load_file(options.out / "latents.safetensors")
    net = build(file.load("flow", options.start)[0] if options.start else None).to(device)
    if options.compile:
        compile_layers(net)
    captions = Captions(device)
    loop = Loop("mini-flow", {"flow": net}, rank, options, lr=options.lr, weight_decay=1e-2, warmup=50 if options.start else 200, hold=0.25, ema=0.998)
    with differentiable():
        for _, g in loop:
            latents, rows, _ = draw_batch(data, options.batch, g, visible_share=1)
            sigma, noise = draw_sigmas(options.batch, g), torch.randn(latents.shape, generator=g)
            latents, sigma, noise = (v.to(device) for v in (latents, sigma, noise))
            s = sigma.view(-1, 1, 1, 1)
            out = velocity(net, (1 - s) * latents + s * noise, sigma, captions(rows))
            loop.update((out - (noise - latents)).square().mean())
    if rank == 0:
        made = provenance("mini-flow --start" if options.start else "mini-flow", options, loop.seconds)
        file.save("flow", {k[5:]: v for k, v in loop.averaged().items()}, Metadata(file.metadata_of("vae").latents, notes=made), options.save)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-flow", __doc__, steps=12000, batch=32)
    parser.add_argument("--start", type=Path, nargs="?", const=file.path_of("flow"), help="go on from these weights, without a file from the bundled ones, after a short warm-up")
    parser.add_argument("--compile", action="store_true", help="compile the layers first: about 1.7 times as fast on a CPU")
    parser.add_argument("--lr", type=float, help="default 1.5e-3, with --start 8e-4")
    options = parser.parse_args(argv)
    options.lr = options.lr or (8e-4 if options.start else 1.5e-3)
    prepare(options)
    launch(train, options)
