"""Pictures that guide the network, cut to the views of a canvas.

The hint of a ControlNet or T2I adapter, and those of patches that bring a network and a picture of
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
# their pictures have no form that can be cut from outside
UNCUT_PATCHES = {"WanUni3CCnetPatch": "Uni3C ControlNet", "AnimaLLLitePatch": "Anima LLLite", "SUPIRPatch": "SUPIR"}
CACHES = {"KV_Attn_Input": "Flux KV Cache"}  # kept for a whole run, whatever is shown


def cut_control(control, cut):
    """Copy of a ControlNet chain that shows the network `cut`'s views; see `conditioning.stack`. One of another
    pack is no copy: `other_packs` cuts what it holds for as long as it is shown."""
    # both guidance branches must get the same object, or ComfyUI runs them one by one
    key = id(control), tuple(cut.views)
    if key not in cut.controls:
        foreign = is_foreign_control(control)
        out = control if foreign else _cut(control, cut)
        if control.previous_controlnet is not None:
            out.previous_controlnet = cut_control(control.previous_controlnet, cut)
        clones = getattr(control, "multigpu_clones", None)  # a later ComfyUI
        if clones and not foreign:
            out.multigpu_clones = {device: cut_control(clone, cut) for device, clone in clones.items()}
        cut.controls[key] = out
    return cut.controls[key]


def _cut(control, cut):
    encoded = control.vae is not None and cut.views[0].region is not None
    # an adapter keeps what it made of the hint, an encoded small picture is worth keeping too
    keep = hasattr(control, "control_input") or (control.vae is not None and not encoded)
    if not keep:
        return _copy(control, cut, encoded)
    return cut.recent.get(("control", id(control), tuple(cut.views), len(cut.x)), lambda: (control, _copy(control, cut, encoded)))[1]


def _copy(control, cut, encoded):
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
        hint = _encoded_hint(control, cut)
    else:
        pixels = ratio if control.vae is None else ratio * control.vae.spacial_compression_encode()
        hint = _enlarged(control.cond_hint_original, control, pixels, cut)
    out.cond_hint_original = _views(hint, ratio if encoded or control.vae is None else pixels, cut)
    out.extra_concat_orig = [c if c.shape[-2:] == (1, 1) else _views(_enlarged(c, control, ratio, cut), ratio, cut) for c in control.extra_concat_orig]
    return out


def _unchanged(image):
    return image


def _views(image, ratio, cut):
    whole = comfy.utils.repeat_to_batch_size(image, len(cut.x))
    return torch.cat([view.pixels(whole, ratio) for view in cut.views])


def _enlarged(image, control, ratio, cut):
    """`image` at the size of the canvas, `ratio` pixels to a cell, as ComfyUI would enlarge it."""
    height, width = cut.canvas

    def make():
        return image, comfy.utils.common_upscale(image, width * ratio, height * ratio, control.upscale_algorithm, "center").to(cut.x.device)

    return cut.recent.get(("hint", id(image), height, width, ratio, control.upscale_algorithm), make)[1]


def _encoded_hint(control, cut):
    """Scaled latents of the whole hint. Neighbouring regions share what the VAE makes of their border."""

    def make():
        pixels = _enlarged(control.cond_hint_original, control, control.compression_ratio * control.vae.spacial_compression_encode(), cut)
        loaded = model_management.loaded_models(only_currently_used=True)
        latents = control.vae.encode(control.preprocess_image(pixels).movedim(1, -1))
        model_management.load_models_gpu(loaded)
        if control.latent_format is not None:
            latents = control.latent_format.process_in(latents)
        return control, latents.to(cut.x.device)

    # what the clones of a control on other devices share
    parts = (control.cond_hint_original, control.vae, control.latent_format, control.preprocess_image)
    return cut.recent.get(("encoded", cut.canvas, *map(id, parts)), make)[1]


def hint_patches(model_options: dict) -> dict:
    """The patches on the model that bring a picture of their own, by id.

    Raises ValueError for those that cannot be cut.
    """
    found = {}
    for patches in model_options["transformer_options"].get("patches", {}).values():
        for patch in patches:
            kind = type(getattr(patch, "__self__", patch)).__name__
            if kind in UNCUT_PATCHES:
                raise ValueError(f"model carries a {UNCUT_PATCHES[kind]} patch, whose picture cannot be cut to regions. Remove it, or use a ControlNet instead.")
            if kind in HINT_PATCHES:
                found[id(patch)] = patch
    return found


def check_caches(model_options: dict) -> None:
    """Raises ValueError for what keeps the reference of the first picture that the network sees for all others."""
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
        own = {key: cache.get(("patch", key, view), lambda patch=patch: (patch, _cut_patch(patch, view, call.canvas)))[1] for key, patch in self.hints.items()}
        patches = {name: [own.get(id(patch), patch) for patch in patches] for name, patches in transformer_options["patches"].items()}
        return {**options, "transformer_options": {**transformer_options, "patches": patches}}


def _cut_patch(patch, view, canvas):
    out = copy.copy(patch)
    height, width = canvas.pixels

    def cropped(image, kernel):
        return view.pixels(comfy.utils.common_upscale(image, width, height, kernel, "center"), canvas.pixels_per_cell)

    for name in ("image", "inpaint_image"):
        image = getattr(patch, name, None)
        if image is not None:
            setattr(out, name, cropped(image.movedim(-1, 1), "area").movedim(1, -1))
    if patch.mask is not None:
        out.mask = cropped(patch.mask, "bilinear")
    out.encoded_image_size = None  # of no picture: the patch encodes its own again
    if hasattr(patch, "temp_data"):
        out.temp_data = None
    return out
