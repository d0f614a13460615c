"""Joint attention (SD 3, Flux) read as cross-attention. Experimental: the paper gives no such form.

An image token attends to text and image with one softmax. Its share of the text is m, what it takes
from it o_text, so that out = (1 - m) o_image + m o_text; m and o_text are what the small image hands
to the regions.
"""

import torch
import torch.nn.functional as F


class JointAttention:
    """optimized_attention_override of one network call: gives (o_text, m) of every joint attention to `patch`
    as if it were the output of a cross-attention layer, and puts back what `patch` makes of it.

    Text comes first, the image's tokens of `patch_size` cells last.
    """

    def __init__(self, patch, size: tuple[int, int], patch_size: int, previous=None):
        self.patch, self.size, self.previous = patch, size, previous
        self.tokens = tuple(-(-side // patch_size) for side in size)
        self.running, self.index = None, 0

    def __call__(self, func, q, k, v, heads, *args, **kwargs):
        attention = func if self.previous is None else lambda *a, **k: self.previous(func, *a, **k)
        out = attention(q, k, v, heads, *args, **kwargs)
        options, image = kwargs["transformer_options"], self.tokens[0] * self.tokens[1]
        if not kwargs.get("skip_reshape"):
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        if q.shape[-2] <= image:  # the image alone
            return out
        text = q.shape[-2] - image
        full = out[:, text:].unflatten(-1, (heads, -1))
        from_text, share = _text_part(q[:, :, text:], k, v, text, kwargs.get("mask"))
        o_text, o_image = from_text / share.clamp(min=1e-6), (full.float() - from_text) / (1 - share).clamp(min=1e-6)

        packed = torch.cat([o_text.flatten(2), share.flatten(2)], -1)
        composed = self.patch(packed, {**options, **self._place(options)})
        new_text, new_share = composed[..., : -share.shape[2]].unflatten(-1, (heads, -1)), composed[..., -share.shape[2] :, None]
        # nothing where nothing was composed
        change = (share - new_share) * o_image + new_share * new_text - share * o_text
        return torch.cat([out[:, :text], (full + change.to(full)).flatten(2)], 1)

    def _place(self, options):
        if options["uuids"] is not self.running:  # ComfyUI makes the list anew for every network call
            self.running, self.index = options["uuids"], 0
        self.index += 1
        return {"block": ("input", self.index), "block_index": 0, "activations_shape": list(self.tokens), "original_shape": list(self.size)}


def _text_part(q, k, v, text, mask):
    """Sum of the attended text values and of their weights, (rows, tokens, heads, d) and (..., 1), float32."""
    values = v.new_zeros(*v.shape[:-1], v.shape[-1] + 8)  # kernels like multiples of eight
    values[:, :, :text, : v.shape[-1]] = v[:, :, :text]
    values[:, :, :text, v.shape[-1]] = 1
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., text:, :]
    summed = F.scaled_dot_product_attention(q, k, values, attn_mask=mask).transpose(1, 2).float()
    return summed[..., : v.shape[-1]], summed[..., v.shape[-1] : v.shape[-1] + 1]
