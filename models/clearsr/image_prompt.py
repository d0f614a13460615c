"""ClearSR's image prompt: the UNet's decoder looks at the image's CLIP embedding instead of the text."""

import torch


class ImagePrompt:
    """`attn2_patch` of ComfyUI's UNet. token: (B, context_dim), one image a row.

    Every text token of a conditional row of the output blocks becomes the image's: attention over equal tokens is
    attention to one, so that rows with and without an image prompt can share a call.
    """

    def __init__(self, token: torch.Tensor):
        self.token = token

    def to(self, device_or_dtype):
        """Called by ComfyUI where it moves a model's patches."""
        self.token = self.token.to(device_or_dtype)
        return self

    def __call__(self, n, context, value, options):
        if options["block"][0] != "output":
            return n, context, value
        halves = options.get("cond_or_uncond", [0])
        rows = len(context) // len(halves)
        token = self.token.to(context).repeat(-(-rows // len(self.token)), 1)[:rows, None].expand(-1, context.shape[1], -1)
        parts = [token if half == 0 else part for half, part in zip(halves, context.chunk(len(halves)))]
        context = torch.cat(parts)
        return n, context, context
