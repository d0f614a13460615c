"""Where transformers believe a region to lie: rotary positions shifted to its place on the canvas."""

import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel
from comfy.patcher_extension import WrappersMP

from .controls import hint_patches

POSITIONS = ("region", "canvas")
POST_INPUT = (Flux, QwenImageTransformer2DModel)
ROPE_OPTIONS = (NextDiT,)  # one shift for all rows of a call
DISTANCES = (WanModel,)  # text has no position, so that only distances within the picture count
PATCHES = {"NaDiT": 2}  # of networks that do not tell: SeedVR2's


def patch_size(network: torch.nn.Module) -> int:
    """Latent cells to the side of one token of `network`; 1 for convolutional ones."""
    names = ("patch_size", "patch_spatial", "patch")  # the last is Krea 2's
    size = next((size for name in names if (size := getattr(network, name, None))), PATCHES.get(type(network).__name__, 1))
    return size if isinstance(size, int) else size[-1]


def check_positions(model) -> None:
    """Raises ValueError for a model (BaseModel) whose positions cannot be shifted."""
    if not isinstance(model.diffusion_model, (*POST_INPUT, *ROPE_OPTIONS, *DISTANCES)):
        raise ValueError(f"positions is 'canvas', which moves rotary positions; {type(model).__name__} has none that ComfyUI lets move. Set positions to 'region'.")


def check_compiled(model, positions: str) -> None:
    """Raises ValueError for a compiled `model` (ModelPatcher): ComfyUI compiles it for the options of its first call,
    and where a region lies, or what it sees of a patch's image, is told by them."""
    if not _is_compiled(model):
        return
    if positions == "canvas":
        raise ValueError("positions is 'canvas', but model is compiled, and would place all regions where the first one lies. Set positions to 'region', or remove TorchCompileModel.")
    if hint_patches(model.model_options):
        raise ValueError("model is compiled and carries a ControlNet patch whose image is cut to each region; all regions would see the part of the first one. Remove TorchCompileModel.")


def _is_compiled(model):
    if isinstance(model.get_model_object("diffusion_model"), torch._dynamo.OptimizedModule):
        return True
    for wrapper in model.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile"):
        # other packs compile single blocks, which positions reach as tensors
        keys = next((cell.cell_contents for cell in wrapper.__closure__ or () if isinstance(cell.cell_contents, dict)), {"diffusion_model": None})
        if "diffusion_model" in keys:
            return True
    return False


class Shift:
    """post_input patch: moves the image tokens of every row to the place of its view.

    views: of one network call on the canvas `x` (B, C, ..., H, W). scale: of the positions, (y, x).
    cropped: whether reference latents were cut like the canvas, and move with it.
    """

    def __init__(self, views: list, x: torch.Tensor, network: torch.nn.Module, scale: tuple[float, float], cropped: bool):
        self.views, self.x, self.scale, self.cropped = views, x, scale, cropped
        self.patch = patch_size(network)
        self.centred = isinstance(network, QwenImageTransformer2DModel)
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
            # the text begins behind the picture
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
