"""Where transformers believe a region to lie: rotary positions shifted to its place on the canvas."""

import inspect

import torch
from comfy.patcher_extension import WrappersMP

from .controls import hint_patches
from .families import family_of
from .views import ViewPatch, patch_size

POSITIONS = ("region", "canvas")
SPAN = 16.0  # of PixelDiT's positions
UPDATE = "rope_positions is 'canvas', but this version of ComfyUI does not let {}'s positions be moved. Update ComfyUI, or set rope_positions to 'region'."


def check_positions(model) -> None:
    """Raises ValueError for a model (BaseModel) whose positions cannot be shifted."""
    positions = family_of(model).positions
    if positions in ROPE_OPTIONS and not reads_options(model.diffusion_model):
        raise ValueError(UPDATE.format(type(model).__name__))
    if positions is None:
        raise ValueError(f"rope_positions is 'canvas', which moves rotary positions; {type(model).__name__} has none that ComfyUI lets move. Set rope_positions to 'region'.")


def reads_options(network: torch.nn.Module) -> bool:
    """Whether this version of ComfyUI lets the network's positions be moved by options; one that does not would draw every
    region as the first one, without a word. Told by its source, where that is at hand."""
    try:
        return "rope_options" in inspect.getsource(inspect.getmodule(type(network)))
    except (OSError, TypeError):
        return True


def check_compiled(model) -> None:
    """Raises ValueError for a compiled `model` (ModelPatcher) with hint patches: ComfyUI compiles it for the options of
    its first call, and what a region sees of a patch's image is told by them."""
    if is_compiled(model) and hint_patches(model.model_options):
        raise ValueError("model is compiled and carries a ControlNet patch whose image is cut to each region; all regions would see the part of the first one. Remove TorchCompileModel.")


def is_compiled(model) -> bool:
    """Whether the network of `model` (ModelPatcher) is compiled as a whole."""
    if isinstance(model.get_model_object("diffusion_model"), torch._dynamo.OptimizedModule):
        return True
    for wrapper in model.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile"):
        # other packs compile single blocks, which positions reach as tensors
        keys = next((cell.cell_contents for cell in wrapper.__closure__ or () if isinstance(cell.cell_contents, dict)), {"diffusion_model": None})
        if "diffusion_model" in keys:
            return True
    return False


class Placed(ViewPatch):
    """Tells the network of `model` (BaseModel) where its views lie on the canvas.

    Raises ValueError, after a call, where this version of ComfyUI does not let positions be moved.
    """

    def __init__(self, model):
        self.model, self.positions = model, family_of(model).positions
        self.one_by_one = self.positions in ROPE_OPTIONS  # one shift for all rows of a call
        self.shift = None

    def options(self, options, call, views):
        if views is None or self.positions == "relative":
            return options
        transformer_options = options["transformer_options"]
        if self.one_by_one:
            place = ROPE_OPTIONS[self.positions]
            return {**options, "transformer_options": place(transformer_options, views[0], self.model.diffusion_model, call.canvas.size)}
        references = [latent for branch in call.conds for cond in branch or () if "ref_latents" in cond["model_conds"] for latent in cond["model_conds"]["ref_latents"].cond]
        self.shift = PositionShift(views, call.x, self.model, any(latent.shape[-2:] == call.canvas.size for latent in references))
        patches = transformer_options.get("patches", {})
        patches = {**patches, "post_input": [*patches.get("post_input", ()), self.shift]}
        return {**options, "transformer_options": {**transformer_options, "patches": patches}}

    def after(self):
        if self.shift is not None and not self.shift.used:
            raise ValueError(UPDATE.format(type(self.model).__name__))


class PositionShift:
    """post_input patch: moves the image tokens of every row to the place of its view.

    views: of one network call of `model` (BaseModel) on the canvas `x` (B, C, ..., H, W). cropped: whether reference
    latents were cut like the canvas, and move with it.
    """

    def __init__(self, views: list, x: torch.Tensor, model, cropped: bool):
        self.views, self.x, self.cropped = views, x, cropped
        self.patch = patch_size(model.diffusion_model)
        self.positions = family_of(model).positions
        self.used = False

    def __call__(self, args):
        self.used = True
        ids, text = args["img_ids"].clone(), args["txt_ids"]
        size = tuple(self._tokens(axis.count) for axis in (self.views[0].y, self.views[0].x))
        canvas = tuple(map(self._tokens, self.x.shape[-2:]))
        shifts = ids.new_tensor([[axis.offset / self.patch for axis in (view.y, view.x)] for view in self.views])
        if self.positions == "post_input_centered":
            shifts += ids.new_tensor([own // 2 - whole // 2 for own, whole in zip(size, canvas)])
            # the text begins behind the image
            text = text + (max(side // 2 for side in canvas) - max(side // 2 for side in size))
        elif self.positions == "post_input_halved":
            shifts += ids.new_tensor([(own + 1) // 2 - (whole + 1) // 2 for own, whole in zip(size, canvas)])
        shifts = (shifts * _steps(ids, size)).repeat_interleave(len(self.x), 0)
        shifts = shifts.repeat(len(ids) // len(shifts), 1)[:, None]
        tokens = ids.shape[1] if self.cropped else self.x.shape[2:-2].numel() * size[0] * size[1]
        ids[:, :tokens, 1:3] += shifts
        return {**args, "img_ids": ids, "txt_ids": text}

    def _tokens(self, cells):
        return (cells + self.patch // 2) // self.patch


def _steps(ids, size):
    """From one token to the next, (y, x), in positions `ids` (B, tokens, axes) of an image of `size` tokens; ComfyUI can
    scale those of some networks."""
    y, x = (ids[0, after, axis] - ids[0, 0, axis] if count > 1 else ids.new_tensor(1) for axis, after, count in ((1, size[1], size[0]), (2, 1, size[1])))
    return torch.stack([y, x])


def shifted_options(transformer_options: dict, view, network: torch.nn.Module, canvas: tuple[int, int]) -> dict:
    """`transformer_options` that place the only view of a call on a `canvas` (height, width) in cells."""
    rope, patch = transformer_options.get("rope_options", {}), patch_size(network)
    moved = {f"shift_{name}": rope.get(f"shift_{name}", 0.0) + axis.offset / patch * rope.get(f"scale_{name}", 1.0) for name, axis in (("y", view.y), ("x", view.x))}
    return {**transformer_options, "rope_options": {**rope, **moved}}


def stretched_options(transformer_options: dict, view, network: torch.nn.Module, canvas: tuple[int, int]) -> dict:
    """As `shifted_options`, for a network that counts from 0 to `SPAN` over an image of any size."""
    rope, patch = transformer_options.get("rope_options", {}), patch_size(network)
    moved = {}
    for name, axis, cells in (("y", view.y, canvas[0]), ("x", view.x, canvas[1])):
        scale, gaps = rope.get(f"scale_{name}", 1.0), max(-(-cells // patch) - 1, 1)
        moved[f"shift_{name}"] = rope.get(f"shift_{name}", 0.0) + SPAN * scale * axis.offset / patch / gaps
        moved[f"scale_{name}"] = scale * (-(-axis.count // patch) - 1) / gaps
    return {**transformer_options, "rope_options": {**rope, **moved}}


ROPE_OPTIONS = {"rope_options": shifted_options, "rope_options_stretched": stretched_options}
