"""What the network is told about a part of the canvas.

`conds_for` rewrites the cond dicts that reach CALC_COND_BATCH for a batch of views. Rows are view-major:
all images of the first view, then all of the second.
"""

import uuid
from collections.abc import Sequence
from typing import NamedTuple

import comfy.conds
import comfy.model_base
import comfy.utils
import torch

from ..methods.regions import Region
from .cache import StepCache
from .controls import cut_control
from .families import family_of
from .latents import same_aspect
from .views import Canvas, SmallView, View

REGION = "loupe_region"  # key of a prompt that belongs to one Region of the canvas
REGION_CANVAS = "loupe_region_canvas"  # (height, width) of the canvas that it lies on, cells
EMBEDDED = 256  # width of one of SDXL's embedded sizes


def has_region_prompts(branch: list) -> bool:
    return any(REGION in cond for cond in branch)


def on_canvas(conds: list, canvas: tuple[int, int], cache: StepCache) -> list:
    """`conds` whose regions lie on `canvas`, (height, width) in cells, where their layout has cells of another size.

    Raises ValueError for a layout of another shape.
    """

    def moved(cond):
        height, width = cond[REGION_CANVAS]
        y, x = canvas[0] / height, canvas[1] / width
        if not same_aspect(canvas, (height, width)):
            raise ValueError(f"The prompts of Region Prompts are for a canvas of {width} x {height} latent cells, the sampled latent has {canvas[1]} x {canvas[0]}. Make regions of the latent that is sampled.")
        region = cond[REGION]
        return cond, {**cond, REGION: Region(round(region.y * y), round(region.x * x), round(region.height * y), round(region.width * x)), REGION_CANVAS: canvas}

    def here(cond):
        if cond.get(REGION_CANVAS, canvas) == canvas:
            return cond
        return cache.get(("on canvas", id(cond), canvas), lambda: moved(cond))[1]

    return [branch and [here(cond) for cond in branch] for branch in conds]


def conds_of(branch: list, view: View | SmallView) -> list:
    """The conds of a guidance branch that speak about `view`: those of the region that it shows most of,
    where regions have prompts of their own, else those of the whole canvas."""
    own = [cond[REGION] for cond in branch if REGION in cond]
    if not own:
        return branch
    region = view.region
    best = None if region is None else region if region in own else max(own, key=region.overlap)
    if best is None or not region.overlap(best):
        return [cond for cond in branch if REGION not in cond]
    # the mask is for samplers that do not know about regions
    return [{key: value for key, value in cond.items() if key != "mask"} for cond in branch if cond.get(REGION) == best]


def view_uuid(original: uuid.UUID, views: list) -> uuid.UUID:
    """Identity of a cond shown in `views`; ComfyUI's caches go by it."""
    return uuid.uuid5(original, str(views))


def signatures(conds: list, views: Sequence[View | SmallView]) -> list[tuple]:
    """Views with equal signatures can share a network call: areas and GLIGEN boxes are per call, and
    prompts of different regions must be alike in kind."""
    differ = any(cond.keys() & {REGION, "area", "gligen"} for branch in conds for cond in branch or [])
    return [_signature(conds, view) if differ else () for view in views]


def _signature(conds, view):
    found = []
    for branch in conds:
        chosen = conds_of(branch or [], view)
        found += [(_area(cond, view), _boxes(cond, view)) for cond in chosen if "area" in cond or "gligen" in cond]
        found += [_kind(cond) for cond in chosen if chosen is not branch]
    return tuple(found)


def _kind(cond):
    shapes = tuple((name, tuple(value.cond.shape) if torch.is_tensor(value.cond) else None) for name, value in cond["model_conds"].items())
    return shapes, id(cond.get("control")), id(cond.get("hooks")), *(cond.get(key) for key in ("strength", "mask_strength", "timestep_start", "timestep_end"))


# what is tied to the whole canvas in a form that cannot be cut, by key of the conditioning
UNCUT_KEYS = {
    "attention_mask_img_shape": "a style model's attention mask. Set the style model's strength type to 'multiply' or remove it",
    "keyframe_idxs": "keyframes placed by token. Remove the keyframe guides",
}


def check_prompts(model, **prompts: list) -> None:
    """Raises ValueError for CONDITIONING, by socket, that `model` (BaseModel) cannot be told."""
    pooled = family_of(model).pooled
    for socket, conditioning in prompts.items():
        if not conditioning:
            raise ValueError(f"{socket} is empty; expected at least one prompt. Connect CLIP Text Encode.")
        if pooled and any(not options.keys() & {"pooled_output", "unclip_conditioning"} for _, options in conditioning):
            raise ValueError(
                f"{socket} has no pooled_output, the summary of the prompt that {type(model).__name__} is told. "
                "Encode the prompt with the text encoder of this model."
            )


def check_conditioning(model, conds: dict, canvas: Canvas) -> None:
    """Raises ValueError for conditioning of `model` (BaseModel) that no part of `canvas` can be told its part of.

    conds: the guider's, by name.
    """
    family = family_of(model)
    if family.uncut is not None:
        raise ValueError(f"model is {family.name}, which is told about the whole canvas by {family.uncut}; it cannot be shown regions. Sample it without Loupe's patches.")
    coarse = {key for key, how in family.crops.items() if how == "coarse"}
    for branch in conds.values():
        for cond in branch:
            for key in UNCUT_KEYS.keys() & cond.keys():
                raise ValueError(f"The conditioning of {type(model).__name__} is tied to the whole canvas and cannot be cut to regions: it holds {UNCUT_KEYS[key]}.")
            for key in coarse & cond.keys():
                cells = _cells(cond[key], canvas.size)
                if cells is None or any(canvas.patch % size for size in cells):
                    height, width = cond[key].shape[-2:]
                    raise ValueError(
                        f"{key} of the conditioning has {width} x {height} cells for a canvas of {canvas.width} x {canvas.height}. {family.name} is cut to regions in multiples of {canvas.patch}, "
                        f"which must be multiples of what a cell of {key} stands for. Make the canvas {width * canvas.patch} x {height * canvas.patch}, or {key} {canvas.width // canvas.patch} x {canvas.height // canvas.patch}."
                    )


def _cells(image, canvas):
    """Cells of the canvas (height, width) that an element of `image` (..., h, w) stands for; None for no whole number."""
    sides = list(zip(canvas, image.shape[-2:]))
    return None if any(whole % side for whole, side in sides) else tuple(whole // side for whole, side in sides)


class Crop(NamedTuple):
    """`views` of the canvas `x` (B, C, ..., H, W) of `canvas` cells, shown to `model` in one network call."""

    views: list
    x: torch.Tensor
    canvas: tuple[int, int]
    model: comfy.model_base.BaseModel
    cache: StepCache
    controls: dict  # of this call, by what they are made of

    def within(self, area: tuple[int, ...]) -> "Crop":
        """The area as a canvas of its own."""
        n = len(area) // 2
        size = tuple(min(size, side - start) for size, side, start in zip(area[n - 2 : n], self.canvas, area[-2:]))
        return self._replace(views=[view.within(area) for view in self.views], canvas=size)


def conds_for(conds: list, views: list[View | SmallView], x: torch.Tensor, model, cache: StepCache) -> list:
    """`conds` of the whole canvas `x` (B, C, ..., H, W) rewritten for `views`.

    conds is ComfyUI's: per guidance branch None or a list of dicts. Views must share shape and
    signature. Tensors on the latent grid (masks, concatenated latents) are cropped, ControlNet
    hints in pixels, areas and GLIGEN boxes clipped, sizes that the model is told replaced, each view
    given the prompt of its region; everything else is left to ComfyUI, which repeats it. Nothing of
    the input is changed.
    """
    crop = Crop(views, x, tuple(x.shape[-2:]), model, cache, {})

    def rewritten(branch):
        if not has_region_prompts(branch):
            return [_cond(cond, crop) for cond in branch if "area" not in cond or _area(cond, views[0])]
        columns = zip(*(conds_of(branch, view) for view in views), strict=True)
        return [_joined(column, crop) for column in columns if "area" not in column[0] or _area(column[0], views[0])]

    return [branch and rewritten(branch) for branch in conds]


def _joined(column, crop):
    """One cond out of the one of each view, their rows view after view."""
    parts = [_rewritten(cond, crop._replace(views=[view])) for cond, view in zip(column, crop.views)]
    out = parts[0].copy()
    out["model_conds"] = {name: _joined_rows([part["model_conds"][name] for part in parts], len(crop.x)) for name in out["model_conds"]}
    if "mask" in out:
        out["mask"] = torch.cat([part["mask"] for part in parts])
    if "control" in out:
        out["control"] = _control(column[0], crop)
    out["uuid"] = view_uuid(column[0]["uuid"], crop.views)
    return out


def _joined_rows(conds, batch):
    if not torch.is_tensor(conds[0].cond):
        return conds[0]
    return conds[0]._copy_with(torch.cat([comfy.utils.repeat_to_batch_size(cond.cond, batch) for cond in conds]))


def _cond(cond, crop):
    out = crop.cache.get((id(cond), tuple(crop.views), len(crop.x)), lambda: (cond, _rewritten(cond, crop)))[1]
    return {**out, "control": _control(cond, crop)} if "control" in cond else out


def _control(cond, crop):
    # ComfyUI fits the hint to the area of a cond that has one
    return cut_control(cond["control"], crop.within(cond["area"]) if "area" in cond else crop)


def _rewritten(cond, crop):
    """`cond` for the views of `crop`, its control as it was."""
    out = cond.copy()
    rebuilt = _rebuilt(cond, crop)
    for key, value in cond.items():
        if key == "model_conds":
            out[key] = {name: rebuilt[name] if name in rebuilt else _model_cond(name, c, crop) for name, c in value.items()}
        elif key == "area":
            out[key] = _area(cond, crop.views[0])
        elif key == "gligen":
            boxes = _boxes(cond, crop.views[0])
            out[key] = (value[0] if boxes else "empty", value[1], boxes)
        elif key == "uuid":
            out[key] = view_uuid(value, crop.views)
        elif key != "cross_attn" and torch.is_tensor(value) and value.ndim >= 3 and value.shape[-2:] == crop.canvas:
            out[key] = _latents(value, crop)
    if "area" in cond and "mask" not in cond:
        out["mask"] = _latents(area_weights(cond["area"], crop.x), crop)
    return out


def _rebuilt(cond, crop):
    """What ComfyUI makes of `cond` for an image of the views' size, and cannot be cut from that of the canvas."""
    names = family_of(crop.model).rebuilt
    if not names:
        return {}
    view = crop.views[0]
    noise = view.latent(crop.x)
    area = _area(cond, view)

    def make():
        made = crop.model.extra_conds(**{**cond, "noise": noise, "device": noise.device, **({"area": area} if area else {})})
        return cond, {name: value for name, value in made.items() if name in names}

    return crop.cache.get(("rebuilt", id(cond), tuple(noise.shape), area), make)[1]


def _model_cond(name, cond, crop):
    value = cond.cond
    if isinstance(cond, comfy.conds.CONDConstant):
        return cond
    if isinstance(cond, comfy.conds.CONDList):
        return cond._copy_with([_tensor(v, crop) for v in value])
    if not torch.is_tensor(value):
        return cond
    if crop.views[0].size_ids is not None:
        sizes = _sizes(name, value, crop)
        if sizes is not None:
            return cond._copy_with(sizes)
    how = family_of(crop.model).crops.get(name)
    if how == "pixels":
        ratio = value.shape[-1] // crop.canvas[1]
        return cond._copy_with(torch.cat([view.pixels(_rows(value, crop), ratio) for view in crop.views]))
    if how == "coarse":
        return cond._copy_with(_coarse(name, value, crop))
    rows = _tensor(value, crop)
    # one row would be repeated by ComfyUI, and then copied beside the other branch's
    return cond._copy_with(rows.expand(len(crop.views) * len(crop.x), *rows.shape[1:]) if len(rows) == 1 else rows)


def _tensor(value, crop):
    if value.ndim >= 4 and value.shape[-2:] == crop.canvas:
        return _latents(value, crop)
    # ComfyUI counts the rows of all views
    return value if len(value) == 1 else _rows(value, crop)


def _coarse(name, value, crop):
    cells = _cells(value, crop.canvas) or crop.canvas
    try:
        return torch.cat([view.coarse(_rows(value, crop), cells) for view in crop.views])
    except ValueError as error:
        raise ValueError(f"{name} of the conditioning has a cell for every {cells[1]} x {cells[0]} of the canvas, and cannot be cut to a part of it: {error}. Set sizes and overlaps to multiples of that.") from error


def _rows(value, crop):
    return comfy.utils.repeat_to_batch_size(value, len(crop.x))


def _latents(tensor, crop):
    tensor = _rows(tensor, crop)
    return torch.cat([view.latent(tensor) for view in crop.views])


# what models are told of SDXL's size ids (views, 6), by family and name
TOLD = {
    ("sdxl", "y"): lambda ids: ids,
    ("refiner", "y"): lambda ids: ids[:, :4],
    ("pixart", "c_size"): lambda ids: ids[:, :2],
    ("pixart", "c_ar"): lambda ids: ids[:, :1] / ids[:, 1:2],
    ("hunyuan_dit", "image_meta_size"): lambda ids: torch.cat([ids[:, :2], ids[:, 4:], torch.zeros_like(ids[:, :2])], 1),
}


def _sizes(name, value, crop):
    """What models are told about the size of their image, in `value`'s place; None where it is not that."""
    told = TOLD.get((family_of(crop.model).sizes, name))
    if told is None:
        return None
    sizes = told(torch.tensor([view.size_ids for view in crop.views], dtype=torch.float32))
    return _with_size_ids(value, sizes, crop) if name == "y" else sizes.to(value).repeat_interleave(len(crop.x), 0)


def _with_size_ids(y, ids, crop):
    # after the pooled text; the refiner's fifth number is no size
    key = "embedded", *(view.size_ids for view in crop.views)
    sizes = crop.cache.get(key, lambda: crop.model.embedder(ids.flatten()).reshape(len(ids), -1).to(y))
    numbers = 6 if ids.shape[1] == 6 else 5
    start = y.shape[1] - EMBEDDED * numbers
    rows = _rows(y, crop).repeat(len(crop.views), 1)
    rows[:, start : start + sizes.shape[1]] = sizes.repeat_interleave(len(crop.x), 0)
    return rows


def area_weights(area: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """ComfyUI's weights of an area (..., height, width, ..., y, x) on the canvas `x` (B, C, ..., H, W):
    1, falling towards those of its sides that lie inside the canvas; 0 elsewhere. (1, ..., H, W)."""
    weights, n = x.new_ones(1), len(area) // 2
    for dim, length in enumerate(x.shape[2:], n - (x.ndim - 2)):
        start = area[n + dim] if dim >= 0 else 0
        size = min(area[dim], length - start) if dim >= 0 else length
        ramp = min(8, size // 4)
        side = torch.zeros(length)
        side[start : start + size] = 1
        for i in range(ramp):
            if start != 0:
                side[start + i] *= (i + 1) / ramp
            if start + size < length:
                side[start + size - 1 - i] *= (i + 1) / ramp
        weights = weights[..., None] * side.to(x)
    return weights


def _area(cond, view):
    return view.area(cond["area"]) if "area" in cond else None


def _boxes(cond, view):
    if "gligen" not in cond:
        return None
    clipped = ((box[0], view.area(box[1:])) for box in cond["gligen"][2])
    return tuple((embedding, *box) for embedding, box in clipped if box is not None)
