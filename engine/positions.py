"""Where transformers believe a region to lie: rotary positions shifted to its place on the canvas."""

import torch
from comfy.patcher_extension import WrappersMP

from .controls import hint_patches
from .families import family_of
from .views import ViewPatch, patch_size

POSITIONS = ("region", "canvas")


def check_positions(model) -> None:
    """Raises ValueError for a model (BaseModel) whose positions cannot be shifted."""
    if family_of(model).positions is None:
        raise ValueError(f"positions is 'canvas', which moves rotary positions; {type(model).__name__} has none that ComfyUI lets move. Set positions to 'region'.")


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
        self.one_by_one = self.positions == "rope_options"  # one shift for all rows of a call
        self.shift = None

    def options(self, options, call, views):
        if views is None or self.positions == "relative":
            return options
        transformer_options = options["transformer_options"]
        if self.positions == "rope_options":
            return {**options, "transformer_options": shifted_options(transformer_options, views[0], self.model.diffusion_model)}
        rope = transformer_options.get("rope_options", {})
        references = [latent for branch in call.conds for cond in branch or () if "ref_latents" in cond["model_conds"] for latent in cond["model_conds"]["ref_latents"].cond]
        self.shift = PositionShift(views, call.x, self.model, (rope.get("scale_y", 1.0), rope.get("scale_x", 1.0)), any(latent.shape[-2:] == call.canvas.size for latent in references))
        patches = transformer_options.get("patches", {})
        patches = {**patches, "post_input": [*patches.get("post_input", ()), self.shift]}
        return {**options, "transformer_options": {**transformer_options, "patches": patches}}

    def after(self):
        if self.shift is not None and not self.shift.used:
            raise ValueError(f"positions is 'canvas', but this version of ComfyUI does not let {type(self.model).__name__}'s positions be moved. Update ComfyUI, or set positions to 'region'.")


class PositionShift:
    """post_input patch: moves the image tokens of every row to the place of its view.

    views: of one network call of `model` (BaseModel) on the canvas `x` (B, C, ..., H, W). scale: of the positions, (y, x).
    cropped: whether reference latents were cut like the canvas, and move with it.
    """

    def __init__(self, views: list, x: torch.Tensor, model, scale: tuple[float, float], cropped: bool):
        self.views, self.x, self.scale, self.cropped = views, x, scale, cropped
        self.patch = patch_size(model.diffusion_model)
        self.centred = family_of(model).positions == "post_input_centred"
        self.used = False

    def __call__(self, args):
        self.used = True
        ids, text = args["img_ids"].clone(), args["txt_ids"]
        size = tuple(self._tokens(axis.count) for axis in (self.views[0].y, self.views[0].x))
        shifts = [[axis.offset / self.patch * scale for axis, scale in zip((view.y, view.x), self.scale)] for view in self.views]
        shifts = torch.tensor(shifts).repeat_interleave(len(self.x), 0).to(ids)
        if self.centred:
            canvas = tuple(map(self._tokens, self.x.shape[-2:]))
            shifts += ids.new_tensor([own // 2 - whole // 2 for own, whole in zip(size, canvas)])
            # the text begins behind the image
            text = text + (round(max(side // 2 for side in canvas)) - round(max(side // 2 for side in size)))
        shifts = shifts.repeat(len(ids) // len(shifts), 1)[:, None]
        tokens = ids.shape[1] if self.cropped else self.x.shape[2:-2].numel() * size[0] * size[1]
        ids[:, :tokens, 1:3] += shifts
        return {**args, "img_ids": ids, "txt_ids": text}

    def _tokens(self, cells):
        return (cells + self.patch // 2) // self.patch


def shifted_options(transformer_options: dict, view, network: torch.nn.Module) -> dict:
    """`transformer_options` that place the only view of a call."""
    rope, patch = transformer_options.get("rope_options", {}), patch_size(network)
    moved = {f"shift_{name}": rope.get(f"shift_{name}", 0.0) + axis.offset / patch * rope.get(f"scale_{name}", 1.0) for name, axis in (("y", view.y), ("x", view.x))}
    return {**transformer_options, "rope_options": {**rope, **moved}}
