"""What patches and ControlNets of other packs hold, while the network is shown parts of the canvas.

They were made for one image of the canvas's size. While a view is shown, what they hold of the canvas
(masks, hints, features) is cut to it in place, and what they keep from earlier calls is what they kept
of this view: every view is an image of its own. Between two calls they are as they were.
"""

import collections
import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

import comfy.controlnet
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from .side_effects import (
    code_of,
    guidance,
    name_of,
    reads,
    recorded,
    top_module,
    written,
)

PACK = __name__.rsplit(".", 2)[0]
COMFYUI = ("comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "latent_preview", "nodes", "torch")
CUT_ELSEWHERE = ("DiffSynthCnetPatch", "ZImageControlPatch")  # see `controls`
# options of a call that ComfyUI itself makes, or that hold patches
OPTIONS = {"patches", "patches_replace", "wrappers", "callbacks", "sample_sigmas", "sigmas", "cond_or_uncond", "uuids", "easycache", "rope_options"}
AROUND = ("apply_model", "diffusion_model", "model_function_wrapper", "optimized_attention_override")  # kinds of `network_patches`
DEPTH, LONGEST, MOST = 6, 4096, 4096  # of a walk, of a list or dict that it enters, and of all that it finds
FEW = 16  # masks in one tensor
SMALLEST_MASK = 8  # rows and columns; fewer may be a mask of text
DOWNSAMPLED = (2, 4, 8)  # cells to the side of what deeper layers see
ASPECT = 0.1  # relative deviation that counts as the canvas's


def is_own(thing) -> bool:
    return f"{top_module(thing)}.".startswith(f"{PACK}.")


def is_foreign(thing) -> bool:
    """Whether a callable or ControlNet comes from another pack."""
    return top_module(thing).split(".")[0] not in COMFYUI and not is_own(thing)


def is_foreign_control(control) -> bool:
    """A class of another pack, or one of ComfyUI's with methods put on the instance."""
    own = (value for name, value in vars(control).items() if hasattr(type(control), name))
    return is_foreign(control) or any(callable(value) and not isinstance(value, (torch.nn.Module, type)) for value in own)


def network_patches(model_options: dict) -> Iterator[tuple[str, Callable]]:
    """(kind, callable) of all that runs with the network: patches, replaced attention, wrappers."""
    options = model_options.get("transformer_options", {})
    for name, patches in options.get("patches", {}).items():
        yield from ((name, patch) for patch in patches)
    for name, patches in options.get("patches_replace", {}).items():
        yield from ((name, patch) for patch in patches.values())
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for wrappers in options.get("wrappers", {}).get(kind, {}).values():
            yield from ((kind, wrapper) for wrapper in wrappers)
    if "model_function_wrapper" in model_options:
        yield "model_function_wrapper", model_options["model_function_wrapper"]
    if callable(options.get("optimized_attention_override")):
        yield "optimized_attention_override", options["optimized_attention_override"]


class Root(NamedTuple):
    """Where a walk begins. ratio: pixels per cell in which its hints are kept; kernel: how it enlarges
    them; area: of the canvas that it is limited to; whole: nothing in it is cut."""

    thing: object
    ratio: int
    kernel: str | None = None
    area: tuple[int, ...] | None = None
    whole: bool = False


class Entries(NamedTuple):
    """What one object, dict, list or function holds, by name."""

    holder: object
    label: str
    root: Root
    values: dict

    @property
    def holds_tensors(self) -> bool:
        return any(map(_holds_tensor, self.values.values()))


class OtherPacks:
    """Of one run of `model` (BaseModel). `model_options` are the run's."""

    def __init__(self, model_options: dict, model):
        pixels_per_cell = model.latent_format.spacial_downscale_ratio
        found = ((kind, patch) for kind, patch in network_patches(model_options) if not is_own(patch))
        patches = {id(patch): (kind, patch) for kind, patch in found if type(getattr(patch, "__self__", patch)).__name__ not in CUT_ELSEWHERE}
        options = model_options.get("transformer_options", {})
        settings = [value for key, value in options.items() if key not in OPTIONS and isinstance(value, (dict, list))]
        self.roots = {id(thing): Root(thing, pixels_per_cell) for thing in [*(patch for _, patch in patches.values()), *settings]}
        # what only stands around the network and keeps no tensors knows nothing of the canvas
        self.foreign = [patch for kind, patch in patches.values() if is_foreign(patch) and (kind not in AROUND or _keeps_tensors(patch))]
        # they may keep one thing for each image of a batch, or what the last call left: regions in one call would change both
        remembers = any(written(patch) - recorded(patch) for _, patch in patches.values())
        self.alone = bool(self.foreign) or remembers or any(_keeps_tensors(root.thing) for root in self.roots.values())
        objects = getattr(model.current_patcher, "object_patches", {}).items()
        replaced = [function for name, function in objects if name.startswith("diffusion_model") and callable(function) and is_foreign(function)]
        self.roots |= {id(function): Root(function, pixels_per_cell) for function in replaced}
        if replaced or any(is_foreign(patch) for _, patch in patches.values()):
            # where caches keep what they know; nothing there is of the canvas
            self.roots[id(model.diffusion_model)] = Root(model.diffusion_model, pixels_per_cell, whole=True)
        # guidance looks at what the last call left, others at what a patch has recorded
        functions = [holder for root in self.roots.values() for holder, _, _ in _holders(root.thing) if callable(holder)]
        self.shared = set().union(*map(reads, guidance(model_options)), *map(recorded, functions))
        self.left, self.step = {}, None

    def add_controls(self, conds: list) -> bool:
        """Take in the ControlNets of other packs in `conds`; whether there are any."""
        found = False
        for cond in (cond for branch in conds for cond in branch or ()):
            control = cond.get("control")
            while control is not None:
                if is_foreign_control(control):
                    found = True
                    for one in (control, *getattr(control, "multigpu_clones", {}).values()):
                        self._add_control(one, cond.get("area"))
                control = control.previous_controlnet
        return found

    def _add_control(self, control, area):
        for inner in vars(control).values():  # one that stands around another
            if isinstance(inner, comfy.controlnet.ControlBase) and inner is not control.previous_controlnet and id(inner) not in self.roots:
                self._add_control(inner, area)
        vae = getattr(control, "vae", None)
        ratio = control.compression_ratio * (1 if vae is None else vae.spacial_compression_encode())
        root = Root(control, ratio, control.upscale_algorithm, area)
        known = self.roots.setdefault(id(control), root)
        if known.area != area:
            raise ValueError(f"ControlNet {name_of(control)} is used for two areas of the canvas, which cannot be cut for it at the same time. Load it once for each area.")

    def blamed(self, error: Exception) -> str | None:
        """The patches of other packs that `error` comes from, or may come from; None if there are none."""
        trace, running = error.__traceback__, set()
        while trace is not None:
            running.add(trace.tb_frame.f_code)
            trace = trace.tb_next
        guilty = [patch for patch in self.foreign if code_of(patch) in running]
        return ", ".join(dict.fromkeys(map(name_of, guilty or self.foreign))) or None

    @contextlib.contextmanager
    def shown(self, views: list | None, crop, step: int):
        """In here all of them hold what they should while `views` are shown: `crop` is the Crop of these
        views, or views is None for the whole canvas."""
        if not self.roots:
            yield
            return
        key = None if views is None else tuple(views)
        before = self._entries()
        own = before if views is None else {holder: self._cut(entries, crop) if entries.holds_tensors else entries for holder, entries in before.items()}
        _write(_updated(own, self._left(key, step)), before)
        try:
            yield
        finally:
            after = self._entries()
            self.left[key] = step, _changes(after, own)
            _write(_counted_on(before, own, after), after)

    def _left(self, key, step):
        """What a view left behind; of one that was not shown before, only what is no tensor and older than
        this step, so that counters go on."""
        if step != self.step:
            self.step = step
            self.left = {key: left for key, left in self.left.items() if left[0] >= step - 1}
        if key in self.left:
            return self.left[key][1]
        older = [entries for at, entries in self.left.values() if at < step]
        if not older:
            return {}
        return {holder: entries._replace(values={name: value for name, value in entries.values.items() if not _holds_tensor(value)}) for holder, entries in older[-1].items()}

    def _entries(self) -> dict[int, Entries]:
        """All that is held now, by the id of what holds it."""
        found = {}
        for root in self.roots.values():
            for holder, label, values in _holders(root.thing):
                if isinstance(holder, types.FunctionType):
                    values = {name: value for name, value in values.items() if id(_cell(holder, name)) not in self.shared}
                if id(holder) not in found and id(holder) not in self.shared:
                    found[id(holder)] = Entries(holder, label, root, values)
        return found

    def _cut(self, entries, crop):
        root = entries.root
        if root.whole:
            return entries
        if root.area is not None:
            crop = crop.within(root.area)
        values = {}
        for name, value in entries.values.items():
            label = name if isinstance(name, str) else entries.label
            values[name] = _mapped(value, label, lambda tensor, name: _cut_tensor(tensor, name, entries.label, root, crop))
        return entries._replace(values=values)

    def options(self, transformer_options: dict, crop, pixels_per_cell: int) -> dict:
        """`transformer_options` whose tensors of other packs show `crop`'s views."""
        found = {key: value for key, value in transformer_options.items() if key not in OPTIONS and torch.is_tensor(value)}
        return {**transformer_options, **{key: _cut_tensor(value, key, "", Root(None, pixels_per_cell), crop) for key, value in found.items()}} if found else transformer_options


def _updated(entries, changes):
    out = dict(entries)
    for holder, changed in changes.items():
        known = out.get(holder)
        out[holder] = changed if known is None else known._replace(values={**known.values, **changed.values})
    return out


def _changes(after, before):
    """What of `after` is other than `before`, for those that have kept a tensor."""
    changes = {}
    for holder, entries in after.items():
        known = before[holder].values if holder in before else {}
        values = {name: value for name, value in entries.values.items() if name not in known or not _same(known[name], value)}
        if any(map(_holds_tensor, values.values())):
            changes[holder] = entries._replace(values=values)
    return changes


def _counted_on(before, now, after):
    """`before`, but what only counts and keeps no tensors has gone on."""
    out, kept = dict(before), _changes(after, now)
    for holder, entries in after.items():
        if holder not in before:
            # made while it was shown
            out[holder] = entries._replace(values={}) if entries.holds_tensors else entries
        elif holder not in kept:
            own = before[holder].values
            plain = {name: value for name, value in entries.values.items() if not _holds_tensor(value) and not _holds_tensor(own.get(name))}
            out[holder] = before[holder]._replace(values={**own, **plain})
    return out


def _same(a, b):
    if isinstance(a, _List) and isinstance(b, _List):
        return len(a) == len(b) and all(one is other for one, other in zip(a, b))
    return a is b


def _write(wanted, present):
    """Make all holders hold what `wanted` says, where `present` is what they hold."""
    for holder in {**present, **wanted}:
        old, new = (side[holder].values if holder in side else {} for side in (present, wanted))
        target = (wanted if holder in wanted else present)[holder].holder
        for name in old.keys() - new.keys():
            _remove(target, name)
        for name, value in new.items():
            if name not in old or not _same(old[name], value):
                _set(target, name, value)


def _holders(thing, label="", depth=0, seen=None):
    """(holder, label, {name: value}) of `thing` and what it refers to. A list is one value, by the name None."""
    seen = set() if seen is None else seen
    if id(thing) in seen or depth > DEPTH or len(seen) > MOST or not _is_walked(thing, depth):
        return
    seen.add(id(thing))
    if isinstance(thing, types.MethodType):
        yield from _holders(thing.__self__, label, depth, seen)
        thing = thing.__func__
    if isinstance(thing, functools.partial):
        yield from _holders(thing.func, label, depth, seen)
        children = list(enumerate(thing.args)) + [("keywords", thing.keywords)]
    elif isinstance(thing, types.FunctionType):
        values = _values_of(thing)
        yield thing, label, values
        children = [*values.items(), ("", vars(thing))]
    elif isinstance(thing, dict):
        yield thing, label, dict(thing)
        children = list(thing.items())
    elif isinstance(thing, (list, collections.deque)):
        yield thing, label, {None: _List(thing)}
        children = [(None, value) for value in thing]
    elif isinstance(thing, (tuple, set, frozenset)):
        children = [(None, value) for value in thing]
    else:
        values = _attributes(thing)
        yield thing, label, values
        children = list(values.items())
    for name, value in children:
        yield from _holders(value, name if isinstance(name, str) else label, depth + 1, seen)


def _attributes(thing):
    """Of an object, also one with slots; of a network of another pack with its buffers, but never weights."""
    own = getattr(thing, "__dict__", {})
    if isinstance(thing, torch.nn.Module):
        inner = vars(torch.nn.Module()).keys() - ({"_buffers", "_modules"} if is_foreign(thing) else set())
        own = {name: value for name, value in own.items() if name not in inner}
    return {**{name: getattr(thing, name) for name in _slots(type(thing)) if hasattr(thing, name)}, **own}


def _slots(kind):
    found = [base.__dict__.get("__slots__", ()) for base in kind.__mro__]
    names = [name for slots in found for name in ([slots] if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


class _List(list):
    """The content of a list."""


def _values_of(function):
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # nothing in it yet
            values[name] = cell.cell_contents
    return {**values, **_defaults(function), **(function.__kwdefaults__ or {})}


def _defaults(function):
    """By the name of the argument."""
    code, defaults = function.__code__, function.__defaults__ or ()
    return dict(zip(code.co_varnames[: code.co_argcount][-len(defaults) :], defaults)) if defaults else {}


def _cell(function, name):
    """Of a variable of the function around; None for defaults."""
    names = function.__code__.co_freevars
    return function.__closure__[names.index(name)] if name in names else None


def _is_walked(thing, depth):
    if isinstance(thing, (dict, list, tuple, set, frozenset, collections.deque)):
        return len(thing) <= LONGEST
    if isinstance(thing, (types.FunctionType, types.MethodType, functools.partial)):
        return True
    if isinstance(thing, (torch.Tensor, type, types.ModuleType)) or not (hasattr(thing, "__dict__") or hasattr(type(thing), "__slots__")):
        return False
    module = type(thing).__module__
    if module.split(".")[0] in ("builtins", "collections", "uuid", "enum", "logging", "threading", "pathlib", "numpy"):
        return False
    # other ControlNets are roots of their own
    return depth == 0 or not (module.split(".")[0] in COMFYUI and not module.startswith("comfy_extras") or isinstance(thing, comfy.controlnet.ControlBase) or is_own(thing))


def _set(holder, name, value):
    if isinstance(holder, (list, collections.deque)):
        holder.clear()
        holder.extend(value)
    elif isinstance(holder, dict):
        holder[name] = value
    elif isinstance(holder, types.FunctionType):
        if _cell(holder, name) is not None:
            _cell(holder, name).cell_contents = value
        elif name in (holder.__kwdefaults__ or {}):
            holder.__kwdefaults__[name] = value
        else:
            holder.__defaults__ = tuple({**_defaults(holder), name: value}.values())
    elif name in getattr(holder, "__dict__", {}) or not hasattr(type(holder), name):
        vars(holder)[name] = value
    else:
        object.__setattr__(holder, name, value)


def _remove(holder, name):
    if isinstance(holder, types.FunctionType):
        if _cell(holder, name) is not None:
            del _cell(holder, name).cell_contents
    elif name in (kept := holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})):
        del kept[name]
    elif not isinstance(holder, (list, collections.deque)):
        object.__delattr__(holder, name)


def _is_array(value):
    return type(value).__name__ == "ndarray"


def _holds_tensor(value, depth=3):
    if torch.is_tensor(value) or _is_array(value):
        return True
    if depth and isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return False
    return depth > 0 and any(_holds_tensor(one, depth - 1) for one in value)


def _keeps_tensors(thing):
    return any(any(map(_holds_tensor, values.values())) for _, _, values in _holders(thing))


def _mapped(value, name, function):
    """`value` with its tensors, and those in tuples or the list that it is, changed by function(tensor, name); itself
    where none is. Fields of a named tuple go by their own names."""
    if torch.is_tensor(value):
        return function(value, name)
    if _is_array(value):
        return value if value.dtype.kind not in "fbiu" else _cut_array(value, name, function)
    if not isinstance(value, (tuple, _List)):
        return value
    mapped = [_mapped(one, field, function) for one, field in zip(value, getattr(value, "_fields", [name] * len(value)))]
    if all(a is b for a, b in zip(mapped, value)):
        return value
    return _List(mapped) if isinstance(value, _List) else type(value)(*mapped) if hasattr(value, "_fields") else tuple(mapped)


def _cut_array(array, name, function):
    tensor = torch.from_numpy(array)
    crop = function(tensor, name)
    return array if crop is tensor else crop.numpy()


def _cut_tensor(tensor, name, parent, root, crop):
    """`tensor`, held under `name` by what is held under `parent`, cut to the views of `crop` if it is of the canvas."""
    if isinstance(tensor, torch.nn.Parameter) or not tensor.numel() or not tensor.ndim:
        return tensor
    is_control, is_mask = root.kernel is not None, "mask" in name.lower()
    shaped = tensor.ndim > 1 and _has_aspect(tensor.shape[-2:], crop.canvas)
    rows = next((crop.canvas[0] // cells for cells in (1, *DOWNSAMPLED) if tensor.shape[-1] * cells * cells == crop.canvas[0] * crop.canvas[1]), None)
    if is_mask and rows and not shaped and (tensor.ndim == 1 or tensor.shape[-2] < SMALLEST_MASK):  # of tokens
        planes = tensor.unflatten(-1, (rows, -1)).reshape(1, -1, rows, tensor.shape[-1] // rows)
        return _cached(tensor, root, crop, lambda: _features(planes, root, crop).reshape(*tensor.shape[:-1], -1))
    if tensor.ndim < 2:
        return tensor
    if (is_mask and min(tensor.shape[-2:]) >= SMALLEST_MASK) or (shaped and (is_mask or "mask" in parent.lower())):
        return _cached(tensor, root, crop, lambda: _pixels(tensor, "bilinear", root, crop))
    if not is_control:
        # a square matrix may be one of weights, and many rows of one may be text
        of_images = tensor.ndim >= 4 or (tensor.ndim == 3 and len(tensor) <= FEW) or (tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1])
        return _cached(tensor, root, crop, lambda: _features(tensor, root, crop)) if of_images else tensor
    is_hint = tensor.ndim > 3 and any(word in name.lower() for word in ("hint", "image"))
    if (shaped or is_hint) and tensor.ndim > 2:
        return _cached(tensor, root, crop, lambda: _pixels(tensor, root.kernel, root, crop))
    if tensor.ndim == 4 and _has_aspect(tensor.shape[1:3], crop.canvas):
        return _cached(tensor, root, crop, lambda: _pixels(tensor.movedim(-1, 1), root.kernel, root, crop).movedim(1, -1))
    return tensor


def _has_aspect(size, canvas):
    return min(size) > 1 and abs(size[0] * canvas[1] / (size[1] * canvas[0]) - 1) < ASPECT


def _cached(tensor, root, crop, make: Callable):
    key = ("other pack", id(tensor), root.ratio, crop.canvas, tuple(crop.views), len(crop.x))
    return crop.cache.get(key, lambda: (tensor, make()))[1]


def _pixels(tensor, kernel, root, crop):
    """A mask or hint (..., h, w) of any resolution, stretched over the canvas, in the views."""
    planes = tensor.reshape(-1, 1, *tensor.shape[-2:])
    height, width = crop.canvas
    ratio = planes.shape[-1] // width
    if ratio < 1 or planes.shape[-2:] != (height * ratio, width * ratio) or (root.kernel == kernel and ratio != root.ratio):
        ratio = root.ratio
        planes = comfy.utils.common_upscale(planes.float(), width * ratio, height * ratio, kernel, "disabled" if root.kernel is None else "center").to(tensor)
    parts = [view.pixels(planes, ratio) for view in crop.views]
    parts = [part.reshape(*tensor.shape[:-2], *part.shape[-2:]) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _features(tensor, root, crop):
    """A latent, an image or features of the canvas (B, C, ..., h, w) or (B, h, w, C), in the only view; `tensor`
    itself if its size is another."""
    view, (height, width) = crop.views[0], crop.canvas
    if tensor.shape[-2:] == (height, width):
        return view.latent(tensor)
    if tensor.shape[-2:] == (height * root.ratio, width * root.ratio):
        part = view.pixels(tensor.reshape(1, -1, *tensor.shape[-2:]), root.ratio)
        return part.reshape(*tensor.shape[:-2], *part.shape[-2:])
    if tensor.ndim == 4 and tensor.shape[1:3] == (height * root.ratio, width * root.ratio):
        return view.pixels(tensor.movedim(-1, 1), root.ratio).movedim(1, -1)
    for cells in DOWNSAMPLED if tensor.ndim != 2 else ():
        if (*tensor.shape[-2:], 0, 0) == (height // cells, width // cells, height % cells, width % cells) and min(tensor.shape[-2:]) > 3:
            return view.latent(tensor.repeat_interleave(cells, -2).repeat_interleave(cells, -1))[..., ::cells, ::cells]
    return tensor
