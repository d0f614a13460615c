"""Prompts of regions as ordinary conditioning."""

import comfy.model_management
import comfy.utils
import torch

from ..engine.conditioning import REGION, REGION_CANVAS
from ..engine.latents import same_aspect
from ..methods.regions import Region, RegionLayout, crop_images

# what limits a prompt to a place or a time, and would limit its regions to the same
PLACES = ("mask", "mask_strength", "set_area_to_bounds", "area", "strength")
TIMES = ("start_percent", "end_percent", "clip_start_percent", "clip_end_percent")


def crops_of(image: torch.Tensor, regions: RegionLayout) -> list[torch.Tensor]:
    """The regions of images (B, h, w, C) of the canvas; see `crop_images`. Raises ValueError for another aspect ratio."""
    height, width = image.shape[1:3]
    if not same_aspect((height, width), (regions.height, regions.width)):
        raise ValueError(
            f"image is {width}x{height} pixels and regions covers {regions.width}x{regions.height} latent cells: "
            "their aspect ratios differ. Connect the image that is being enlarged, at any resolution."
        )
    return crop_images(image, regions)


def encode_regions(clip, prompts: list[str], layout: RegionLayout, conditioning: list, max_tokens: int = 75) -> list:
    """`conditioning` (of the whole image) followed by each region's prompt, cut to `max_tokens`.

    A prompt carries its region, for Regional Denoise, and the region as a mask, for samplers that
    know nothing of it. Everything else (ControlNets, sizes) comes from the first entry of
    `conditioning`. For an empty prompt stand the entries of the whole image, each at its time, or the
    first where all are limited to a place.
    """
    options = _without(conditioning[0][1], PLACES + TIMES)
    whole = [(text, _without(own, PLACES)) for text, own in conditioning if not own.keys() & {"mask", "area"}]
    encoded, out = {"": whole or [(conditioning[0][0], {})]}, list(conditioning)
    bar = comfy.utils.ProgressBar(len(prompts))
    # all masks are windows of one plane: a hundred of their own would weigh more than the canvas
    inside = Region(layout.height - layout.region_height, layout.width - layout.region_width, layout.region_height, layout.region_width)
    plane = torch.zeros(1, inside.y + layout.height, inside.x + layout.width, dtype=torch.float16)
    inside.crop(plane).fill_(1)
    for prompt, region in zip(prompts, layout.regions, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if prompt not in encoded:
            encoded[prompt] = clip.encode_from_tokens_scheduled(tokens_within(clip, prompt, max_tokens))
        mask = Region(inside.y - region.y, inside.x - region.x, layout.height, layout.width).crop(plane)
        out += [[text, {**options, **own, REGION: region, REGION_CANVAS: (layout.height, layout.width), "mask": mask}] for text, own in encoded[prompt]]
        bar.update(1)
    return out


def _without(options, keys):
    return {key: value for key, value in options.items() if key not in keys}


def tokens_within(clip, prompt: str, max_tokens: int) -> dict:
    """Tokens of as many words of `prompt` as fit into `max_tokens` of every text encoder; 0 is no limit."""
    if not max_tokens:
        return clip.tokenize(prompt)
    words = prompt.split()
    room = {name: max_tokens + count for name, count in _lengths(clip, "").items()}  # some encoders wrap the prompt in words of their own
    while len(words) > 1 and any(count > room[name] for name, count in _lengths(clip, " ".join(words)).items()):
        words.pop()
    return clip.tokenize(" ".join(words))


def _lengths(clip, text):
    """Tokens of words, by encoder; word 0 is padding."""
    tokens = clip.tokenize(text, return_word_ids=True)
    return {name: sum(token[2] != 0 for chunk in chunks for token in chunk) for name, chunks in tokens.items()}
