"""What the network is told about a part of the canvas.

`stack` rewrites the cond dicts that reach CALC_COND_BATCH for a batch of views. Rows are view-major:
all pictures of the first view, then all of the second.
"""

import copy
import uuid
from typing import NamedTuple

import comfy.conds
import comfy.model_base
import comfy.utils
import torch
import torch.nn.functional as F

from ..methods.regions import Region

REGION = "loupe_region"  # key of a prompt that belongs to one Region of the canvas
SIZE_IDS = 6 * 256  # SDXL appends six embedded sizes to the pooled text


class Axis(NamedTuple):
    """Cells offset, offset + step, ... of one axis of the canvas; cells outside repeat the border."""

    offset: int
    step: int
    count: int

    def take(self, tensor: torch.Tensor, dim: int, ratio: int = 1) -> torch.Tensor:
        start, count, length = self.offset * ratio, self.count * ratio, tensor.shape[dim]
        if start >= 0 and start + self.step * (count - 1) < length:
            index = [slice(None)] * tensor.ndim
            index[dim] = slice(start, start + self.step * (count - 1) + 1, self.step)
            return tensor[tuple(index)]
        index = torch.arange(count, device=tensor.device) * self.step + start
        return tensor.index_select(dim, index.clamp(0, length - 1))

    def clip(self, start: int, size: int) -> tuple[int, int] | None:
        """Start and size, in this axis's own cells, of what it sees of `size` canvas cells at `start`."""
        first = max(-((self.offset - start) // self.step), 0)
        last = min(-((self.offset - start - size) // self.step), self.count)
        return (first, last - first) if first < last else None


class View(NamedTuple):
    """A part of the canvas shown to the network as a picture of its own.

    size_ids are SDXL's (height, width, crop_top, crop_left, target_height, target_width) in pixels,
    None to leave what the conditioning says.
    """

    y: Axis
    x: Axis
    size_ids: tuple[int, int, int, int, int, int] | None = None

    @property
    def region(self) -> Region | None:
        """Where it lies on the canvas, None when it is spread over all of it."""
        return Region(self.y.offset, self.x.offset, self.y.count, self.x.count) if self.y.step == self.x.step == 1 else None

    def latent(self, tensor: torch.Tensor) -> torch.Tensor:
        """This view of a (..., H, W) tensor on the latent grid."""
        return self.x.take(self.y.take(tensor, -2), -1)

    def pixels(self, image: torch.Tensor, ratio: int) -> torch.Tensor:
        """This view of a (..., H * ratio, W * ratio) image. Every dilated view is the whole picture,
        made small."""
        if self.y.step == 1:
            return self.x.take(self.y.take(image, -2, ratio), -1, ratio)
        for dim, axis in ((-2, self.y), (-1, self.x)):
            covered = axis.step * axis.count
            image = Axis(image.shape[dim] // ratio - covered, 1, covered).take(image, dim, ratio)
        return comfy.utils.common_upscale(image, self.x.count * ratio, self.y.count * ratio, "area", "disabled")

    def area(self, area: tuple[int, ...]) -> tuple[int, ...] | None:
        """The host's (..., height, width, ..., y, x) clipped to this view, None when they do not meet."""
        n = len(area) // 2
        y, x = self.y.clip(area[-2], area[n - 2]), self.x.clip(area[-1], area[n - 1])
        if y is None or x is None:
            return None
        return (*area[: n - 2], y[1], x[1], *area[n:-2], y[0], x[0])


class Miniature(NamedTuple):
    """The whole canvas shown as one small picture of `height` x `width` cells; otherwise as `View`."""

    height: int
    width: int
    canvas: tuple[int, int]
    size_ids: tuple[int, int, int, int, int, int] | None = None

    region = None

    def latent(self, tensor: torch.Tensor) -> torch.Tensor:
        planes = tensor.reshape(-1, 1, *tensor.shape[-2:])
        return F.interpolate(planes, (self.height, self.width), mode="area").reshape(*tensor.shape[:-2], self.height, self.width)

    def pixels(self, image: torch.Tensor, ratio: int) -> torch.Tensor:
        return comfy.utils.common_upscale(image, self.width * ratio, self.height * ratio, "area", "disabled")

    def area(self, area: tuple[int, ...]) -> tuple[int, ...]:
        n = len(area) // 2
        y, x = self.height / self.canvas[0], self.width / self.canvas[1]
        return (*area[: n - 2], max(1, round(area[n - 2] * y)), max(1, round(area[n - 1] * x)), *area[n:-2], int(area[-2] * y), int(area[-1] * x))


def has_region_prompts(branch: list) -> bool:
    return any(REGION in cond for cond in branch)


def select(branch: list, view: View | Miniature) -> list:
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
    """Identity of a cond shown in `views`; the host's caches go by it."""
    return uuid.uuid5(original, str(views))


def signature(conds: list, view: View | Miniature) -> tuple:
    """Views with equal signatures can share a network call: areas and GLIGEN boxes are per call, and
    prompts of different regions must be alike in kind."""
    found = []
    for branch in conds:
        chosen = select(branch or [], view)
        found += [(_area(cond, view), _boxes(cond, view)) for cond in chosen if "area" in cond or "gligen" in cond]
        found += [_kind(cond) for cond in chosen if chosen is not branch]
    return tuple(found)


def _kind(cond):
    shapes = tuple((name, tuple(value.cond.shape) if torch.is_tensor(value.cond) else None) for name, value in cond["model_conds"].items())
    return shapes, id(cond.get("control")), id(cond.get("hooks")), *(cond.get(key) for key in ("strength", "mask_strength", "timestep_start", "timestep_end"))


def stack(conds: list, views: list[View | Miniature], canvas: tuple[int, int], batch: int, model, cache: dict) -> list:
    """`conds` of the whole canvas (H, W cells, `batch` pictures) rewritten for `views`.

    conds is the host's: per guidance branch None or a list of dicts. Views must share shape and
    `signature`. Tensors on the latent grid (masks, concatenated latents) are cropped, ControlNet
    hints in pixels, areas and GLIGEN boxes clipped, SDXL's sizes replaced, each view given the prompt
    of its region; everything else is left to the host, which repeats it. Nothing of the input is
    changed. `cache` lives for one run.
    """
    controls = {}

    def rewritten(branch):
        if not has_region_prompts(branch):
            return [_cond(cond, views, canvas, batch, model, cache, controls) for cond in branch if "area" not in cond or _area(cond, views[0])]
        columns = zip(*(select(branch, view) for view in views), strict=True)
        return [_joined(column, views, canvas, batch, model, cache, controls) for column in columns if "area" not in column[0] or _area(column[0], views[0])]

    return [branch and rewritten(branch) for branch in conds]


def _joined(column, views, canvas, batch, model, cache, controls):
    """One cond out of the one of each view, their rows view after view."""
    parts = [_cond({key: value for key, value in cond.items() if key != "control"}, [view], canvas, batch, model, cache, controls) for cond, view in zip(column, views)]
    out = parts[0].copy()
    out["model_conds"] = {name: _joined_rows([part["model_conds"][name] for part in parts], batch) for name in out["model_conds"]}
    if "mask" in out:
        out["mask"] = torch.cat([part["mask"] for part in parts])
    if "control" in column[0]:
        out["control"] = _control(column[0]["control"], views, canvas, batch, cache, controls)
    out["uuid"] = view_uuid(column[0]["uuid"], views)
    return out


def _joined_rows(conds, batch):
    if not torch.is_tensor(conds[0].cond):
        return conds[0]
    return conds[0]._copy_with(torch.cat([comfy.utils.repeat_to_batch_size(cond.cond, batch) for cond in conds]))


def _cond(cond, views, canvas, batch, model, cache, controls):
    out = cond.copy()
    for key, value in cond.items():
        if key == "model_conds":
            out[key] = {name: _model_cond(name, c, views, canvas, batch, model) for name, c in value.items()}
        elif key == "area":
            out[key] = _area(cond, views[0])
        elif key == "gligen":
            out[key] = (value[0], value[1], _boxes(cond, views[0]))
        elif key == "control":
            out[key] = _control(value, views, canvas, batch, cache, controls)
        elif key == "uuid":
            out[key] = view_uuid(value, views)
        elif key != "cross_attn" and torch.is_tensor(value) and value.ndim >= 3 and value.shape[-2:] == canvas:
            out[key] = _latents(value, views, batch)
    return out


def _model_cond(name, cond, views, canvas, batch, model):
    value = cond.cond
    if name == "y" and views[0].size_ids is not None and isinstance(model, comfy.model_base.SDXL):
        return cond._copy_with(_with_size_ids(value, views, batch, model))
    if torch.is_tensor(value) and value.ndim >= 4 and value.shape[-2:] == canvas:
        return cond._copy_with(_latents(value, views, batch))
    if isinstance(cond, comfy.conds.CONDList):
        return cond._copy_with([_latents(v, views, batch) if v.shape[-2:] == canvas else v for v in value])
    return cond


def _latents(tensor, views, batch):
    tensor = comfy.utils.repeat_to_batch_size(tensor, batch)
    return torch.cat([view.latent(tensor) for view in views])


def _with_size_ids(y, views, batch, model):
    ids = torch.tensor([view.size_ids for view in views], dtype=torch.float32)
    sizes = model.embedder(ids.flatten()).reshape(len(views), SIZE_IDS).to(y)
    pooled = comfy.utils.repeat_to_batch_size(y[:, :-SIZE_IDS], batch)
    return torch.cat([pooled.repeat(len(views), 1), sizes.repeat_interleave(batch, 0)], dim=1)


def _area(cond, view):
    return view.area(cond["area"]) if "area" in cond else None


def _boxes(cond, view):
    if "gligen" not in cond:
        return None
    clipped = ((box[0], view.area(box[1:])) for box in cond["gligen"][2])
    return tuple((embedding, *box) for embedding, box in clipped if box is not None)


def _control(control, views, canvas, batch, cache, controls):
    # both guidance branches must get the same object, or the host runs them one by one
    if id(control) not in controls:
        # a hint that goes through a VAE is worth keeping for the run
        memory = cache.setdefault("controls", {}) if control.vae is not None else {}
        key = (id(control), tuple(views))
        if key not in memory:
            memory[key] = _crop_control(control, views, canvas, batch, cache)
        out = memory[key]
        if control.previous_controlnet is not None:
            out.previous_controlnet = _control(control.previous_controlnet, views, canvas, batch, cache, controls)
        clones = getattr(control, "multigpu_clones", None)  # a later host
        if clones:
            out.multigpu_clones = {device: _control(clone, views, canvas, batch, cache, controls) for device, clone in clones.items()}
        controls[id(control)] = out
    return controls[id(control)]


def _crop_control(control, views, canvas, batch, cache):
    out = copy.copy(control)
    out.cond_hint = None
    out.extra_concat = None
    if hasattr(control, "control_input"):
        out.control_input = None
    if control.cond_hint_original is None:
        return out
    ratio = control.compression_ratio
    if control.vae is not None:
        ratio *= control.vae.spacial_compression_encode()

    def crop(image, method):
        key = ("hint", id(image))
        if key not in cache:
            cache[key] = comfy.utils.common_upscale(image, canvas[1] * ratio, canvas[0] * ratio, method, "center")
        whole = comfy.utils.repeat_to_batch_size(cache[key], batch)
        return torch.cat([view.pixels(whole, ratio) for view in views])

    out.cond_hint_original = crop(control.cond_hint_original, control.upscale_algorithm)
    out.extra_concat_orig = [crop(c, control.upscale_algorithm) if c.shape[-2:] != (1, 1) else c for c in control.extra_concat_orig]
    return out
