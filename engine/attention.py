"""The output of a network's cross-attention layers, whatever its family."""

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.patcher_extension import WrappersMP

from .cross_attention import OutputPatch, output_width
from .families import family_of
from .views import patch_size

KEY = "loupe_attention"
LAYERS = {"all": ("input", "middle", "output"), "down": ("input",), "middle": ("middle",), "up": ("output",)}


def output_patched(options: dict, model, patch) -> dict:
    """`options` of `model` (BaseModel) whose cross-attention layers give their output (rows, tokens, C) to
    patch(n, extra_options), behind what other patches do to it."""
    transformer_options = options["transformer_options"]
    if family_of(model).attention == "unet":
        patches = transformer_options.get("patches", {})
        changed = {"patches": {**patches, "attn2_output_patch": [*patches.get("attn2_output_patch", ()), patch]}}
    else:
        wrappers = transformer_options.get("wrappers", {})
        around = wrappers.get(WrappersMP.APPLY_MODEL, {})
        changed = {"wrappers": {**wrappers, WrappersMP.APPLY_MODEL: {**around, KEY: [*around.get(KEY, ()), OutputPatch(patch)]}}}
    return {**options, "transformer_options": {**transformer_options, **changed}}


def output_bytes(model, height: int, width: int, layers: str = "all", finest: int = 1, element_size: int = 2) -> int:
    """Memory of the outputs for one image of `height` x `width` cells. element_size: bytes of the network's numbers."""
    network, attention = model.diffusion_model, family_of(model).attention
    if attention is None:
        return 0
    if attention == "unet":
        return _output_bytes_of_unet(network, height, width, layers, finest) * element_size
    patch = patch_size(network)
    tokens = -(-height // patch) * -(-width // patch) if patch >= finest else 0
    return len(network.blocks) * output_width(network) * tokens * element_size


def _output_bytes_of_unet(network, height, width, layers, finest):
    total, cells = 0, 1
    stages = [("input", stage) for stage in network.input_blocks] + [("middle", network.middle_block)] + [("output", stage) for stage in network.output_blocks]
    for part, stage in stages:
        for layer in stage:
            if isinstance(layer, Downsample):
                cells *= 2
            elif isinstance(layer, Upsample):
                cells //= 2
            elif isinstance(layer, SpatialTransformer) and part in LAYERS[layers] and cells >= finest:
                channels = sum(block.attn2.to_out[0].out_features for block in layer.transformer_blocks)
                total += channels * -(-height // cells) * -(-width // cells)
    return total
