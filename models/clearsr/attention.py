"""ClearSR's window cross-attention: features look at the low-resolution latent of their own window."""

import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class WindowCrossAttention(nn.Module):
    """Softmax(QK^T / sqrt(d) + B) V between features and the low-resolution latent, window by window.

    Queries are features (B, h*w, dim), keys and values the latent x_lr (B, latent_channels, H, W), both cut into the
    same windows: `window` x `window` cells of the latent, (window/ratio)^2 features. `ratio` is latent cells per
    feature. B is a learned bias over the offset `u - ratio*i` between key u and query i of a window, measured on the
    latent's grid; with ratio 1 it is Swin's. Source: ClearSR (arXiv 2410.14279), section 3; the paper leaves the
    alignment open, see docs/clearsr.md.
    """

    def __init__(self, dim: int, heads: int, latent_channels: int, window: int, ratio: int, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__()
        if window % ratio:
            raise ValueError(f"a window of {window} latent cells cannot be shared by features of {ratio} cells: it must be a multiple")
        self.heads, self.window, self.ratio = heads, window, ratio
        self.to_q = operations.Linear(dim, dim, bias=False, dtype=dtype, device=device)
        self.to_k = operations.Linear(latent_channels, dim, bias=False, dtype=dtype, device=device)
        self.to_v = operations.Linear(latent_channels, dim, bias=False, dtype=dtype, device=device)
        self.to_out = nn.Sequential(operations.Linear(dim, dim, dtype=dtype, device=device))
        self.rel_pos_bias = nn.Parameter(torch.empty(heads, (2 * window - ratio) ** 2, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor, size: tuple[int, int], x_lr: torch.Tensor) -> torch.Tensor:
        """(B, h*w, dim), to be added to the features; `size` is (h, w)."""
        (h, w), s = size, self.window
        side = s // self.ratio
        rows, columns = -(-h // side), -(-w // side)
        q = rearrange(self.to_q(x), "b (h w) c -> b h w c", h=h)
        q = F.pad(q, (0, 0, 0, columns * side - w, 0, rows * side - h))
        keys = F.pad(x_lr, (0, columns * s - x_lr.shape[-1], 0, rows * s - x_lr.shape[-2]))
        keys = rearrange(keys, "b c (y s) (x t) -> (b y x) (s t) c", s=s, t=s)
        q = rearrange(q, "b (y s) (x t) (n c) -> (b y x) n (s t) c", s=side, t=side, n=self.heads)
        k, v = (rearrange(to(keys), "b l (n c) -> b n l c", n=self.heads) for to in (self.to_k, self.to_v))

        bias = self.bias(x)
        if keys.shape[0] * s * s > x.shape[0] * x_lr.shape[-2:].numel():
            bias = bias + self._padding(x_lr, rows, columns).repeat(x.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = rearrange(out, "(b y x) n (s t) c -> b (y s) (x t) (n c)", y=rows, x=columns, s=side)
        return self.to_out(out[:, :h, :w].flatten(1, 2))

    def bias(self, x: torch.Tensor) -> torch.Tensor:
        """(1, heads, queries, keys) of one window, for features x."""
        s, r = self.window, self.ratio
        key, query = torch.arange(s, device=x.device), torch.arange(s // r, device=x.device)
        offset = key - r * query[:, None] + s - r
        index = rearrange(offset, "i u -> i 1 u 1") * (2 * s - r) + rearrange(offset, "j v -> 1 j 1 v")
        table = comfy.model_management.cast_to(self.rel_pos_bias, x.dtype, x.device)
        return table[None, :, index.flatten(2).flatten(0, 1)]

    def _padding(self, x_lr, rows, columns):
        """(windows, 1, 1, keys): minus infinity where a key is no cell of x_lr."""
        (height, width), s = x_lr.shape[-2:], self.window
        outside = x_lr.new_zeros(rows * s, columns * s)
        outside[height:], outside[:, width:] = float("-inf"), float("-inf")
        return rearrange(outside, "(y s) (x t) -> (y x) 1 1 (s t)", s=s, t=s)
