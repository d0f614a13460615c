"""The model families: what about each is not written on the model itself.

Latent channels, pixels per cell, prediction type and flow are read from the model; steps, CFG and
strength belong to templates, as one class serves base and distilled weights.
"""

import math
from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple


class Family(NamedTuple):
    name: str
    configs: tuple[str, ...]  # classes of comfy.supported_models, by name: some are of later versions
    network: str | None  # class of diffusion_model, or a class that it derives from
    native: int = 1024  # pixels to a side of its native size
    sizes: str | None = None  # how it is told an image's size: sdxl, refiner, pixart, hunyuan_dit
    positions: str | None = None  # how its tokens can be moved, see below
    attention: str | None = None  # where its attention to the text can be read: unet, cross_attn (modules of this name)
    patch: int | None = None  # cells to the side of a token, where its network does not say
    multiple: tuple[str, ...] = ()  # numbers on its network; its regions are multiples of their product, in cells
    crops: Mapping[str, str] = MappingProxyType({})  # conditioning that is cut otherwise than on the latent grid: key -> "pixels", or "coarse" for one of fewer cells
    rebuilt: tuple[str, ...] = ()  # conditioning that ComfyUI makes for an image's size, and again for a region's
    pooled: bool = False  # whether it is told a summary of the prompt (pooled_output)
    uncut: str | None = None  # what tells it about the whole canvas and cannot be cut to regions


GENERIC = Family("generic", (), None)

# positions: "post_input": by a patch of that name, n tokens from 0; "post_input_centered": from -(n // 2), the text behind
# the image; "post_input_halved": from -(n - n // 2), the text at 0. "rope_options": by an option of that name, from 0;
# "rope_options_stretched": from 0 to the same number over an image of any size. "relative": only distances count.

LAYOUT_OF_TOKENS = ("input_ids", "position_ids", "token_types", "vinput_mask", "ar_len", "ref_pixel_values", "ref_image_grid_thw", "ref_patches")
FAMILIES = (
    # UNets
    Family("SD 1.5", ("SD15",), "UNetModel", 512, attention="unet"),
    Family("SD 2", ("SD20",), "UNetModel", 512, attention="unet"),
    Family("SDXL", ("SDXL",), "UNetModel", sizes="sdxl", attention="unet", pooled=True),
    Family("SDXL Refiner", ("SDXLRefiner",), "UNetModel", sizes="refiner", attention="unet", pooled=True),
    Family("Mini World", ("MiniWorld",), "UNetModel", 128, sizes="sdxl", attention="unet", pooled=True),
    Family("Mini World, arbitrary scale", ("MiniArbitrary",), "UNetModel", 256, sizes="sdxl", attention="unet", pooled=True),
    Family("Mini World, flow", ("MiniFlow",), "NextDiT", 128, positions="rope_options"),
    Family("Stable Video Diffusion", ("SVD_img2vid",), "UNetModel", 768, attention="unet"),
    Family("SV3D", ("SV3D_u",), "UNetModel", 576, attention="unet"),
    Family("Stable Zero123", ("Stable_Zero123",), "UNetModel", 256, attention="unet"),
    Family("Stable Cascade B", ("Stable_Cascade_B",), "StageB", uncut="its small prior image", pooled=True),
    # cross-attention to the text
    Family("PixArt", ("PixArtAlpha", "PixArtSigma"), "PixArtMS", sizes="pixart", attention="cross_attn"),
    Family("Hunyuan DiT", ("HunyuanDiT",), "HunYuanDiT", sizes="hunyuan_dit"),
    Family("Anima", ("Anima",), "Anima", positions="relative", attention="cross_attn"),
    Family("Cosmos Predict2", ("CosmosT2IPredict2",), "MiniTrainDIT", positions="relative", attention="cross_attn"),
    Family("Kandinsky 5 Image", ("Kandinsky5Image",), "Kandinsky5", positions="relative", pooled=True),
    Family("Wan 2.1, 2.2", ("WAN21_T2V",), "WanModel", 832, positions="relative", attention="cross_attn", crops={"camera_conditions": "pixels"}),
    Family("Wan 2.2 5B", ("WAN22_T2V",), "WanModel", 960, positions="relative", attention="cross_attn"),
    # joint attention
    Family("SD 3", ("SD3",), "MMDiT", pooled=True),
    Family("AuraFlow", ("AuraFlow",), "MMDiT"),
    Family("Flux", ("Flux", "FluxInpaint", "FluxSchnell"), "Flux", positions="post_input"),
    Family("Flux 2", ("Flux2",), "Flux", positions="post_input"),
    Family("LongCat-Image", ("LongCatImage",), "Flux", positions="post_input"),
    Family("Chroma", ("Chroma",), "Chroma"),
    Family("Chroma Radiance", ("ChromaRadiance",), "ChromaRadiance"),
    Family("Qwen-Image", ("QwenImage",), "QwenImageTransformer2DModel", 1328, positions="post_input_centered"),
    Family("Krea 2", ("Krea2",), "SingleStreamDiT", positions="post_input"),
    Family("Mage-Flow", ("MageFlow",), "MageFlowTransformer2DModel", positions="post_input_halved"),
    Family("JoyImage", ("JoyImage",), "JoyImageTransformer3DModel"),
    Family("Lumina 2", ("Lumina2",), "NextDiT", positions="rope_options"),
    Family("Z-Image", ("ZImage", "ZImagePixelSpace"), "NextDiT", positions="rope_options"),
    Family("Omnigen 2", ("Omnigen2",), "OmniGen2Transformer2DModel"),
    Family("Boogu", ("Boogu",), "BooguTransformer2DModel"),
    Family("Ernie-Image", ("ErnieImage",), "ErnieImageModel", positions="rope_options"),
    Family("Lens", ("Lens",), "LensTransformer2DModel", 1440),
    Family("Ideogram 4", ("Ideogram4",), "Ideogram4Transformer2DModel"),
    Family("HiDream-I1", ("HiDream",), "HiDreamImageTransformer2DModel", pooled=True),
    Family("HiDream-O1", ("HiDreamO1",), "HiDreamO1Transformer", 2048, rebuilt=LAYOUT_OF_TOKENS),
    Family("Hunyuan Image 2.1", ("HunyuanImage21",), "HunyuanVideo", 2048),
    Family("PixelDiT", ("PixelDiTT2I",), "PixDiT_T2I", positions="rope_options_stretched"),
    Family("PiD", ("PiD",), "PidNet", 2048, multiple=("lq_proj.sr_scale", "lq_proj.latent_spatial_down_factor"), crops={"lq_latent": "coarse"}),
    Family("SeedVR2", ("SeedVR2",), "NaDiT", 960, patch=2),  # windows of the area of 720p
)
_BY_CONFIG = {config: family for family in FAMILIES for config in family.configs}


def family_of(model, network=None) -> Family:
    """The family of `model` (BaseModel) by its model_config; GENERIC for one that is not listed.

    network: in the place of the model's own. Where it is not the family's, what the model tells it still
    holds (sizes, crops), its positions and its attention are unknown.
    """
    config = type(getattr(model, "model_config", None))
    family = next((_BY_CONFIG[base.__name__] for base in config.__mro__ if base.__name__ in _BY_CONFIG), GENERIC)
    network = getattr(model, "diffusion_model", None) if network is None else network
    if any(base.__name__ == family.network for base in type(network).__mro__):
        return family
    return family._replace(positions=None, attention=None)


def token_size(network) -> int:
    """Latent cells to the side of one token of a network that does not say; 1 where it is not listed."""
    return next((family.patch for family in FAMILIES if family.patch and family.network == type(network).__name__), 1)


def region_multiple(network) -> int:
    """Latent cells that its record says the regions of `network` are multiples of."""
    names = next((family.multiple for family in FAMILIES if family.network == type(network).__name__), ())
    return math.prod(attrgetter(name)(network) for name in names)
