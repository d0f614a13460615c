"""Images that guide the network, cut to the views of a canvas.

The hint of a ControlNet or T2I adapter, and those of patches that bring a network and an image of
their own (Qwen-Image DiffSynth, Z-Image Fun). All are enlarged to the canvas as ComfyUI does for
an uncut latent, once a run, and cut from there.
"""

import copy

import comfy.utils
import torch
from comfy import model_management

from .other_packs import is_foreign_control
from .views import ViewPatch

HINT_PATCHES = ("DiffSynthCnetPatch", "ZImageControlPatch")
# their images have no form that can be cut from outside
UNCUT_PATCHES = {"WanUni3CCnetPatch": "Uni3C ControlNet", "AnimaLLLitePatch": "Anima LLLite", "SUPIRPatch": "SUPIR"}
CACHES = {"KV_Attn_Input": "Flux KV Cache"}  # kept for a whole run, whatever is shown


def cut_control(control, crop):
    """Copy of a ControlNet chain that shows the network `crop`'s views; see `conditioning.conds_for`. One of another
    pack is no copy: `other_packs` cuts what it holds for as long as it is shown."""
    # both guidance branches must get the same object, or ComfyUI runs them one by one
    key = id(control), tuple(crop.views)
    if key not in crop.controls:
        foreign = is_foreign_control(control)
        out = control if foreign else _cut(control, crop)
        if control.previous_controlnet is not None:
            out.previous_controlnet = cut_control(control.previous_controlnet, crop)
        clones = getattr(control, "multigpu_clones", None)  # a later ComfyUI
        if clones and not foreign:
            out.multigpu_clones = {device: cut_control(clone, crop) for device, clone in clones.items()}
        crop.controls[key] = out
    return crop.controls[key]


def _cut(control, crop):
    encoded = control.vae is not None and crop.views[0].region is not None
    # an adapter keeps what it made of the hint, an encoded small image is worth keeping too
    keep = hasattr(control, "control_input") or (control.vae is not None and not encoded)
    if not keep:
        return _copy(control, crop, encoded)
    return crop.cache.get(("control", id(control), tuple(crop.views), len(crop.x)), lambda: (control, _copy(control, crop, encoded)))[1]


def _copy(control, crop, encoded):
    out = copy.copy(control)
    out.cond_hint = None
    out.extra_concat = None
    if hasattr(control, "control_input"):
        out.control_input = None
    if control.cond_hint_original is None:
        return out
    ratio = control.compression_ratio
    if encoded:
        out.vae = out.latent_format = None
        out.preprocess_image = _unchanged
        hint = _encoded_hint(control, crop)
    else:
        pixels = ratio if control.vae is None else ratio * control.vae.spacial_compression_encode()
        hint = _enlarged(control.cond_hint_original, control, pixels, crop)
    out.cond_hint_original = _views(hint, ratio if encoded or control.vae is None else pixels, crop)
    out.extra_concat_orig = [c if c.shape[-2:] == (1, 1) else _views(_enlarged(c, control, ratio, crop), ratio, crop) for c in control.extra_concat_orig]
    return out


def _unchanged(image):
    return image


def _views(image, ratio, crop):
    whole = comfy.utils.repeat_to_batch_size(image, len(crop.x))
    return torch.cat([view.pixels(whole, ratio) for view in crop.views])


def _enlarged(image, control, ratio, crop):
    """`image` at the size of the canvas, `ratio` pixels to a cell, as ComfyUI would enlarge it."""
    height, width = crop.canvas

    def make():
        return image, comfy.utils.common_upscale(image, width * ratio, height * ratio, control.upscale_algorithm, "center").to(crop.x.device)

    return crop.cache.get(("hint", id(image), height, width, ratio, control.upscale_algorithm), make)[1]


def _encoded_hint(control, crop):
    """Scaled latents of the whole hint. Neighboring regions share what the VAE makes of their border."""

    def make():
        pixels = _enlarged(control.cond_hint_original, control, control.compression_ratio * control.vae.spacial_compression_encode(), crop)
        # one whose patcher is gone is None there
        loaded = [model for model in model_management.loaded_models(only_currently_used=True) if model is not None]
        latents = control.vae.encode(control.preprocess_image(pixels).movedim(1, -1))
        model_management.load_models_gpu(loaded)
        if control.latent_format is not None:
            latents = control.latent_format.process_in(latents)
        return control, latents.to(crop.x.device)

    # what the clones of a control on other devices share
    parts = (control.cond_hint_original, control.vae, control.latent_format, control.preprocess_image)
    return crop.cache.get(("encoded", crop.canvas, *map(id, parts)), make)[1]


def hint_patches(model_options: dict) -> dict:
    """The patches on the model that bring an image of their own, by id.

    Raises ValueError for those that cannot be cut.
    """
    found = {}
    for patches in model_options["transformer_options"].get("patches", {}).values():
        for patch in patches:
            kind = type(getattr(patch, "__self__", patch)).__name__
            if kind in UNCUT_PATCHES:
                raise ValueError(f"model carries a {UNCUT_PATCHES[kind]} patch, whose image cannot be cut to regions. Remove it, or use a ControlNet instead.")
            if kind in HINT_PATCHES:
                found[id(patch)] = patch
    return found


def check_caches(model_options: dict) -> None:
    """Raises ValueError for what keeps the reference of the first image that the network sees for all others."""
    for patches in model_options["transformer_options"].get("patches", {}).values():
        for patch in patches:
            kind = type(getattr(patch, "__self__", patch)).__name__
            if kind in CACHES:
                raise ValueError(f"model carries {CACHES[kind]}, which keeps the reference image of the first region for all others. Remove that node; the image stays the same, and takes longer.")


def hint_view_patches(model_options: dict) -> tuple[ViewPatch, ...]:
    """What cuts the `hint_patches` of a model to views, if it has any."""
    hints = hint_patches(model_options)
    return (HintPatches(hints),) if hints else ()


class HintPatches(ViewPatch):
    """Cuts the images of `hints` to the view that a network call shows."""

    one_by_one = True

    def __init__(self, hints: dict):
        self.hints = hints

    def options(self, options, call, views):
        if views is None:
            return options
        transformer_options, view, cache = options["transformer_options"], views[0], call.run.cache
        own = {key: cache.get(("patch", key, view), lambda patch=patch: (patch, _cut_patch(patch, view, call.canvas, cache)))[1] for key, patch in self.hints.items()}
        patches = {name: [own.get(id(patch), patch) for patch in patches] for name, patches in transformer_options["patches"].items()}
        return {**options, "transformer_options": {**transformer_options, "patches": patches}}


def _cut_patch(patch, view, canvas, cache):
    out = copy.copy(patch)

    def cropped(image, kernel, channels=1):
        return view.pixels(_at_canvas(image, canvas, kernel, channels, cache), canvas.pixels_per_cell)

    for name in ("image", "inpaint_image"):
        image = getattr(patch, name, None)
        if image is not None:
            setattr(out, name, cropped(image, "area", channels=-1).movedim(1, -1))
    if patch.mask is not None:
        out.mask = cropped(patch.mask, "bilinear")
    out.encoded_image_size = None  # of no image: the patch encodes its own again
    if hasattr(patch, "temp_data"):
        out.temp_data = None
    return out


def _at_canvas(image, canvas, kernel, channels, cache):
    """`image` at the size of the canvas, with its dimension `channels` as the second one."""
    height, width = canvas.pixels

    def make():
        return image, comfy.utils.common_upscale(image.movedim(channels, 1), width, height, kernel, "center")

    return cache.get(("hint of a patch", id(image), height, width, kernel), make)[1]
