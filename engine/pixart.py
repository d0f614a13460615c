"""PixArt's cross-attention layers, for which ComfyUI has no hook."""

import contextlib


class OutputPatches:
    """APPLY_MODEL wrapper of one network call: gives the output of every cross-attention layer to the list of
    attn2_output_patch, as the UNets' is. The layers are those of the network that the call runs, on any device."""

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, *args, **kwargs):
        network = executor.class_obj.diffusion_model
        with contextlib.ExitStack() as hooks:
            for index, block in enumerate(network.blocks):
                layer = _Layer(index, network.patch_size, x.shape, transformer_options)
                hooks.callback(block.cross_attn.register_forward_hook(layer).remove)
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)


class _Layer:
    """Forward hook of one layer."""

    def __init__(self, index, patch_size, shape, options):
        height, width = (-(-side // patch_size) for side in shape[-2:])
        self.options = {**options, "block": ("input", index), "block_index": 0, "activations_shape": [height, width], "original_shape": list(shape)}

    def __call__(self, module, args, out):
        for patch in self.options.get("patches", {}).get("attn2_output_patch", ()):
            out = patch(out, self.options)
        return out
