"""The output of a network's cross-attention layers, whatever its family."""

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.patcher_extension import WrappersMP

from .families import family_of
from .joint import JointAttention
from .pixart import OutputPatches
from .views import patch_size

KEY = "loupe_attention"
LAYERS = {"all": ("input", "middle", "output"), "down": ("input",), "middle": ("middle",), "up": ("output",)}


def output_patched(options: dict, model, patch, size: tuple[int, int]) -> dict:
    """`options` of `model` (BaseModel) whose cross-attention layers give their output (rows, tokens, C) to
    patch(n, extra_options), behind what other patches do to it.

    size: cells (height, width) of what the network is shown.
    """
    transformer_options, attention = options["transformer_options"], family_of(model).attention
    if attention == "joint":
        override = JointAttention(patch, size, patch_size(model.diffusion_model), transformer_options.get("optimized_attention_override"))
        return {**options, "transformer_options": {**transformer_options, "optimized_attention_override": override}}
    patches = transformer_options.get("patches", {})
    patches = {**patches, "attn2_output_patch": [*patches.get("attn2_output_patch", ()), patch]}
    transformer_options = {**transformer_options, "patches": patches}
    if attention == "pixart":
        wrappers = transformer_options.get("wrappers", {})
        around = {**wrappers.get(WrappersMP.APPLY_MODEL, {}), KEY: [OutputPatches()]}
        transformer_options["wrappers"] = {**wrappers, WrappersMP.APPLY_MODEL: around}
    return {**options, "transformer_options": transformer_options}


def output_bytes(model, height: int, width: int, layers: str = "all", finest: int = 1, element_size: int = 2) -> int:
    """Memory of the outputs for one image of `height` x `width` cells.

    element_size: bytes of the network's numbers; joint attention keeps float32.
    """
    network, attention = model.diffusion_model, family_of(model).attention
    if attention is None:
        return 0
    if attention == "unet":
        return _output_bytes_of_unet(network, height, width, layers, finest) * element_size
    patch = patch_size(network)
    tokens = -(-height // patch) * -(-width // patch) if patch >= finest else 0
    if attention == "pixart":
        return len(network.blocks) * network.hidden_size * tokens * element_size
    blocks = network.joint_blocks if hasattr(network, "joint_blocks") else [*network.double_blocks, *network.single_blocks]
    return len(blocks) * (network.hidden_size + network.num_heads) * tokens * 4


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
