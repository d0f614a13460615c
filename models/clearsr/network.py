"""ClearSR's control networks (arXiv 2410.14279): DPM and GSPM, two encoders shaped as ComfyUI's UNet's."""

from dataclasses import asdict, dataclass

import comfy.ops
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    Downsample,
    ResBlock,
    TimestepEmbedSequential,
)
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import nn

from .attention import WindowCrossAttention


@dataclass(frozen=True)
class Config:
    """Shape of a UNet's encoder, in the words of ComfyUI's model configurations, and what ClearSR adds to it.

    transformer_depth: one number per ResBlock; transformer_depth_middle: one for the middle. window: latent cells on a
    side of an attention window, 0 for none. gspm, gspm_middle, gspm_time: whether there is a GSPM, with a middle
    block, with a time embedding of its own (else it shares DPM's).
    """

    in_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 0, 0)
    transformer_depth_middle: int = 1
    context_dim: int = 1024
    head_channels: int = 64
    use_linear: bool = True
    adm_in_channels: int | None = None
    window: int = 16
    gspm: bool = True
    gspm_middle: bool = False
    gspm_time: bool = False

    @classmethod
    def of(cls, args: dict) -> "Config":
        """From a file's arguments: JSON has lists for tuples."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in args.items()})


class RestoringBlock(BasicTransformerBlock):
    """ComfyUI's transformer block with window cross-attention to x_lr after the text cross-attention."""

    def __init__(self, dim: int, config: Config, ratio: int, **kwargs):
        heads = dim // config.head_channels
        super().__init__(dim, heads, config.head_channels, context_dim=config.context_dim, attn_precision=torch.float32, **kwargs)
        self.norm_lr = self.attn_lr = None
        if config.window:
            self.norm_lr = kwargs["operations"].LayerNorm(dim, dtype=kwargs["dtype"], device=kwargs["device"])
            self.attn_lr = WindowCrossAttention(dim, heads, config.in_channels, config.window, ratio, **kwargs)

    def forward(self, x, context=None, transformer_options={}):
        x = x + self.attn1(self.norm1(x), transformer_options=transformer_options)
        x = x + self.attn2(self.norm2(x), context=context, transformer_options=transformer_options)
        if self.attn_lr is not None:
            size = transformer_options["activations_shape"][-2:]
            x = x + self.attn_lr(self.norm_lr(x), size, transformer_options["x_lr"])
        return x + self.ff(self.norm3(x))


class RestoringTransformer(SpatialTransformer):
    """ComfyUI's spatial transformer of `depth` restoring blocks."""

    def __init__(self, dim: int, depth: int, config: Config, ratio: int, **kwargs):
        super().__init__(dim, dim // config.head_channels, config.head_channels, depth=0, use_linear=config.use_linear, **kwargs)
        self.transformer_blocks.extend(RestoringBlock(dim, config, ratio, **kwargs) for _ in range(depth))


class Trunk(nn.Module):
    """The UNet's encoder with x_lr added after its first convolution; one signal per skip connection.

    `transformers` False makes GSPM's trunk of ResBlocks alone; `middle` adds the middle block and its signal. Keys are
    those of ComfyUI's ControlNet, so that a UNet's encoder loads into it.
    """

    def __init__(self, config: Config, transformers: bool, middle: bool, time: bool, **kwargs):
        super().__init__()
        ops = kwargs["operations"]
        factory = {k: v for k, v in kwargs.items() if k != "operations"}
        self.model_channels = channels = config.model_channels
        width = 4 * channels

        def embedding(inputs):
            return nn.Sequential(ops.Linear(inputs, width, **factory), nn.SiLU(), ops.Linear(width, width, **factory))

        def zero_conv(channels):
            return TimestepEmbedSequential(ops.Conv2d(channels, channels, 1, **factory))

        def attention(channels, depth, ratio):
            return [RestoringTransformer(channels, depth, config, ratio, **kwargs)] if transformers and depth else []

        self.time_embed = embedding(channels) if time else None
        self.label_emb = nn.Sequential(embedding(config.adm_in_channels)) if time and config.adm_in_channels else None
        self.lr_conv_in = ops.Conv2d(config.in_channels, channels, 3, padding=1, **factory)
        blocks = [[ops.Conv2d(config.in_channels, channels, 3, padding=1, **factory)]]
        signals = [channels]
        depths = iter(config.transformer_depth)
        for level, (mult, count) in enumerate(zip(config.channel_mult, config.num_res_blocks)):
            for _ in range(count):
                out = mult * config.model_channels
                blocks.append([ResBlock(channels, width, 0, out_channels=out, **kwargs), *attention(out, next(depths), 2**level)])
                channels = out
                signals.append(channels)
            if level + 1 < len(config.channel_mult):
                blocks.append([Downsample(channels, True, **kwargs)])
                signals.append(channels)
        self.input_blocks = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in blocks)
        self.zero_convs = nn.ModuleList(zero_conv(channels) for channels in signals)
        self.middle_block = self.middle_block_out = None
        if middle:
            within = attention(channels, config.transformer_depth_middle, 2**level)
            layers = [ResBlock(channels, width, 0, **kwargs), *within, ResBlock(channels, width, 0, **kwargs)]
            self.middle_block = TimestepEmbedSequential(*layers)
            self.middle_block_out = zero_conv(channels)

    def embed(self, timesteps: torch.Tensor, y: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """Embedding (B, 4 * model_channels) of timesteps 0..999 and of the size conditioning y, where the base has one."""
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        return emb if self.label_emb is None else emb + self.label_emb(y)

    def forward(self, x: torch.Tensor, x_lr: torch.Tensor, emb: torch.Tensor, context: torch.Tensor | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Signals for the skip connections, first to last, and for the middle."""
        options = {"x_lr": x_lr}
        first, *rest = self.input_blocks
        h = first(x, emb, context, options) + self.lr_conv_in(x_lr)
        out = [self.zero_convs[0](h, emb, context)]
        for block, zero_conv in zip(rest, self.zero_convs[1:]):
            h = block(h, emb, context, options)
            out.append(zero_conv(h, emb, context))
        if self.middle_block is None:
            return out, []
        return out, [self.middle_block_out(self.middle_block(h, emb, context, options), emb, context)]


class ClearSR(nn.Module):
    """DPM (an encoder that looks at x_lr through windows) and GSPM (one without attention), signals added up.

    Takes what ComfyUI gives a ControlNet: x (B, C, h, w) as the UNet sees it, hint = x_lr (B, C, h, w), the scaled
    latent of the low-quality image at the size of x (one for all, or one a row), timesteps (B,) 0..999, context (B, tokens, context_dim), y.
    Returns {"output": signals for the skip connections, "middle": [signal]}.

    loras: weights of the LoRAs trained with it, for the base's UNet ("unet") and its VAE's encoder ("vae"), by ComfyUI's
    loader keys. They stay on the CPU.
    """

    def __init__(self, config: Config, dtype: torch.dtype | None = None, device: torch.device | str | None = None, operations=comfy.ops.disable_weight_init):
        super().__init__()
        kwargs = {"dtype": dtype, "device": device, "operations": operations}
        self.config, self.dtype, self.args = config, dtype, asdict(config)
        self.loras: dict[str, dict[str, torch.Tensor]] = {"unet": {}, "vae": {}}
        self.dpm = Trunk(config, True, True, True, **kwargs)
        self.gspm = Trunk(config, False, config.gspm_middle, config.gspm_time, **kwargs) if config.gspm else None

    def forward(self, x, hint, timesteps, context, y=None, **kwargs) -> dict[str, list[torch.Tensor]]:
        emb = self.dpm.embed(timesteps, y, x.dtype)
        hint = hint.expand(len(x), -1, -1, -1)
        output, middle = self.dpm(x, hint, emb, context)
        if self.gspm is not None:
            own = emb if self.gspm.time_embed is None else self.gspm.embed(timesteps, y, x.dtype)
            more, more_middle = self.gspm(x, hint, own, None)
            output = [a + b for a, b in zip(output, more)]
            middle = [a + b for a, b in zip(middle, more_middle)] if more_middle else middle
        return {"output": output, "middle": middle}

    def initialize(self, unet: dict[str, torch.Tensor]) -> None:
        """Start as the paper does: encoders from the UNet's weights, everything new adds nothing yet."""
        for trunk in filter(None, (self.dpm, self.gspm)):
            own, weights = trunk.state_dict(), unet
            if trunk.middle_block is not None and len(trunk.middle_block) == 2:  # the UNet's second ResBlock is its third layer
                weights = {k.replace("middle_block.2.", "middle_block.1."): v for k, v in unet.items() if not k.startswith("middle_block.1.")}
            trunk.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)
            for module in (trunk.lr_conv_in, trunk.zero_convs, trunk.middle_block_out):
                for p in module.parameters() if module is not None else ():
                    nn.init.zeros_(p)
        for module in self.modules():
            if isinstance(module, RestoringBlock) and module.attn_lr is not None:
                nn.init.ones_(module.norm_lr.weight)
                nn.init.zeros_(module.norm_lr.bias)
                for linear in (module.attn_lr.to_q, module.attn_lr.to_k, module.attn_lr.to_v):
                    nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(module.attn_lr.rel_pos_bias)
                for p in module.attn_lr.to_out.parameters():
                    nn.init.zeros_(p)
