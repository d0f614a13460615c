"""The cross-attention layers of transformers, for which ComfyUI has no hook: the module `cross_attn` of every block."""

import contextlib

from .views import patch_size

WIDTHS = ("hidden_size", "model_channels", "dim")  # PixArt's, Cosmos's and Wan's names


def output_width(network) -> int:
    """Channels of a layer's output."""
    return next(getattr(network, name) for name in WIDTHS if hasattr(network, name))


def attends_to_images(network) -> bool:
    """Whether a layer adds what it takes from an image to what it takes from the text (Wan's image to video)."""
    return any(hasattr(block.cross_attn, "k_img") for block in network.blocks)


class OutputPatch:
    """APPLY_MODEL wrapper of one network call: gives the output of every layer to patch(n, extra_options), as the UNets'
    is. The layers are those of the network that the call runs, on any device."""

    def __init__(self, patch):
        self.patch = patch

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, *args, **kwargs):
        network = executor.class_obj.diffusion_model
        size = [-(-side // patch_size(network)) for side in x.shape[-2:]]
        with contextlib.ExitStack() as hooks:
            for index, block in enumerate(network.blocks):
                options = {**transformer_options, "block": ("input", index), "block_index": 0, "activations_shape": size, "original_shape": list(x.shape)}
                hook = block.cross_attn.register_forward_hook(lambda module, args, out, options=options: self.patch(out, options))
                hooks.callback(hook.remove)
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)
