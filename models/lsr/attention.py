"""SwinIR's attention within windows, by torch's fused kernels where nothing is learned."""

import torch
import torch.nn.functional as F
from spandrel.architectures.SwinIR.__arch.SwinIR import WindowAttention


class FusedWindowAttention(WindowAttention):
    """With the sizes and weights of a `published` one. Its gradients are the published form's, which is faster then."""

    def __init__(self, published: WindowAttention):
        with torch.device("meta"):  # draws nothing
            super().__init__(published.dim, published.window_size, published.num_heads)
        self.load_state_dict(published.state_dict(), assign=True)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (windows, cells, C); mask (windows of an image, cells, cells), 0 or a large negative number."""
        if torch.is_grad_enabled():
            return super().forward(x, mask)
        windows, cells, _ = x.shape
        q, k, v = self.qkv(x).view(windows, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).expand(windows // len(mask), -1, -1, -1, -1).flatten(0, 1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, bias, scale=self.scale).transpose(1, 2).flatten(2))
