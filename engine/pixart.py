"""PixArt's cross-attention layers, for which ComfyUI has no hook."""

from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.patcher_extension import WrappersMP

KEY = "loupe_pixart_attention"


class Running:
    """Around a network call: gives the layers its transformer options and the size of its picture."""

    def __init__(self):
        self.options = None

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, *args, **kwargs):
        self.options = {**transformer_options, "original_shape": list(x.shape)}
        try:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)
        finally:
            self.options = None


class CrossAttention:
    """`forward` of one layer, its output given to the list of attn2_output_patch as the UNets' is."""

    def __init__(self, layer, index: int, patch_size: int, running: Running):
        self.forward = type(layer).forward.__get__(layer)
        self.block, self.patch_size, self.running = ("input", index), patch_size, running

    def __call__(self, x, cond, mask=None):
        n = self.forward(x, cond, mask)
        options = self.running.options or {}
        patches = options.get("patches", {}).get("attn2_output_patch", ())
        if patches:
            *_, height, width = options["original_shape"]
            options = {**options, "block": self.block, "block_index": 0, "activations_shape": [-(-height // self.patch_size), -(-width // self.patch_size)]}
        for patch in patches:
            n = patch(n, options)
        return n


def patch_cross_attention(model):
    """Clone of a PixArt `model` (ModelPatcher) whose layers call attn2_output_patch."""
    model = model.clone()
    network: PixArtMS = model.get_model_object("diffusion_model")
    running = Running()
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, running)
    for i, block in enumerate(network.blocks):
        model.add_object_patch(f"diffusion_model.blocks.{i}.cross_attn.forward", CrossAttention(block.cross_attn, i, network.patch_size, running))
    return model
