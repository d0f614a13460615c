"""C-Upscale's regional attention prior on ComfyUI's attention hooks.

Before the regions of an evaluation, the network sees the small picture at the same noise level with
the global prompt, and the output of its cross-attention layers is kept until the evaluation ends.
The regions' layers read it at their place.
"""

from dataclasses import dataclass

import comfy.utils
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    Downsample,
    UNetModel,
    Upsample,
)
from comfy.ldm.pixart.pixartms import PixArtMS

from ..engine.conditioning import REGION, view_uuid
from ..engine.joint import JointAttention
from ..engine.pixart import patch_cross_attention
from ..engine.positions import patch_size
from ..engine.views import Axis, Miniature, View
from ..methods.attention_prior import (
    attended_region,
    bilinear_weights,
    compose,
    token_centres,
)
from ..methods.noise import seeded_noise, stream

LAYERS = {"all": ("input", "middle", "output"), "down": ("input",), "middle": ("middle",), "up": ("output",)}
NOISES = ("fixed", "fresh")
JOINT = (MMDiT, Flux)


@dataclass(frozen=True, eq=False)
class AttentionPrior:
    """reference: the small picture at the model's native area, unscaled (B, C, h, w).

    weight: share of the prior where a region has a prompt of its own; weight_alone: where all regions
    share the global prompt. layers: a key of LAYERS; finest: leaves out layers with fewer cells to the
    side of a token. noise: "fixed" for a run or "fresh" for every step, drawn from `seed` for each image of
    the reference, by its place `batch_index` in a batch. joint: also for models with joint attention, an
    experiment.
    """

    reference: torch.Tensor
    weight: float = 0.5
    weight_alone: float = 1.0
    layers: str = "all"
    finest: int = 1
    noise: str = "fixed"
    seed: int = 0
    joint: bool = False
    batch_index: list[int] | None = None

    def check(self, model) -> None:
        """Raises ValueError for a model (ModelPatcher) without cross-attention that ComfyUI lets patch,
        and for videos."""
        network = model.get_model_object("diffusion_model")
        if isinstance(network, JOINT) and not self.joint:
            raise ValueError(f"model is {type(model.model).__name__}, whose text and picture share their attention; C-Upscale says nothing about how the Attention Prior works there. Switch joint_attention on to try an experimental form, or leave the node out: the Structure Prior and Region Prompts work with every model.")
        if not isinstance(network, (UNetModel, PixArtMS, *JOINT)) or self.reference.ndim != 4:
            raise ValueError(f"model is {type(model.model).__name__}; the Attention Prior works on pictures of SD 1.5, SD 2, SDXL and PixArt, and as an experiment of SD 3 and Flux. Leave it out: the Structure Prior and Region Prompts work with every model.")
        if not isinstance(network, UNetModel) and self.layers != "all":
            raise ValueError(f"layers is {self.layers!r}, but {type(model.model).__name__} has no encoder and decoder. Set layers to 'all'.")

    def hooked(self, model):
        """Clone of `model` (ModelPatcher) that calls attn2_output_patch, which PixArt does not by itself."""
        return patch_cross_attention(model) if isinstance(model.get_model_object("diffusion_model"), PixArtMS) else model

    def count(self, height: int, width: int) -> int:
        return 1 if self.weight or self.weight_alone else 0

    def largest(self, height: int, width: int) -> tuple[int, int, int]:
        """(pictures at once, height, width) to make room for."""
        return 1, *self.reference.shape[-2:]

    def attend(self, call) -> None:
        """Shows the network the small picture and keeps it as `call.attended`, where the prior has a part in the evaluation."""
        branch = [] if call.positive is None else call.conds[call.positive]
        if not any(self.weight if REGION in cond else self.weight_alone for cond in branch):
            return
        if any("area" in cond for cond in branch):  # ComfyUI gives each branch the areas of the other
            raise ValueError("positive or negative is limited to an area, which the Attention Prior cannot follow. Limit it by a mask (Conditioning Set Mask) instead.")
        if any("ref_latents" in cond["model_conds"] for cond in branch) and isinstance(call.model.diffusion_model, JOINT):
            raise ValueError("positive holds reference latents, which the Attention Prior cannot tell from text. Remove them or the prior.")
        when = "fixed" if self.noise == "fixed" else f"{call.step.level:.6g}"
        reference, noise = call.state.recent.get(("attention_prior", when), lambda: self._drawn(call, when))
        size = tuple(reference.shape[-2:])
        pixels = tuple(side * call.cells for side in size)
        whole = [cond for cond in branch if REGION not in cond]
        if not whole:
            raise ValueError("positive holds prompts of regions, but none of the whole picture, which the Attention Prior needs. Connect the output of Region Prompts as it is.")
        call.attended = Attended(self, call.positive, [cond["uuid"] for cond in whole], call.canvas, call.model.diffusion_model)
        x = call.model.model_sampling.noise_scaling(call.timestep[:1], noise, reference)
        call.views([x], [Miniature(*size, call.canvas, (*pixels, 0, 0, *pixels))], [whole])

    def _drawn(self, call, when):
        """Scaled reference and noise, an image of the reference for each of the canvas."""
        noise = seeded_noise(self.reference.shape, stream(self.seed, f"attention prior {when}"), self.batch_index)
        return tuple(comfy.utils.repeat_to_batch_size(x.to(call.x), len(call.x)) for x in (call.model.process_latent_in(self.reference), noise))


class Attended:
    """What the cross-attention layers made of the small picture, for the length of one evaluation.

    positive: number of the guidance branch that reads it; uuids: of its prompts of the whole picture.
    """

    def __init__(self, prior: AttentionPrior, positive: int, uuids: list, canvas: tuple[int, int], network: torch.nn.Module):
        self.prior, self.positive, self.uuids, self.canvas, self.network = prior, positive, uuids, canvas, network
        self.values = {}

    def of(self, layer: tuple, uuid) -> torch.Tensor | None:
        """Values (B, h, w, C) under the prompt `uuid`; for None under the first that acts at this noise level."""
        return next((self.values[layer, key] for key in ([uuid] if uuid else self.uuids) if (layer, key) in self.values), None)

    def options(self, model_options: dict, views: list | None = None) -> dict:
        """`model_options` for a network call on `views`, or on the whole canvas."""
        if views and isinstance(views[0], Miniature):
            patch = Capture(self, views)
        else:
            patch = Read(self, views)
        options = model_options["transformer_options"]
        if isinstance(self.network, JOINT):
            override = JointAttention(patch, patch.size, patch_size(self.network), options.get("optimized_attention_override"))
            return {**model_options, "transformer_options": {**options, "optimized_attention_override": override}}
        patches = options.get("patches", {})
        # last in the list, behind what other patches do to the layer's output
        patches = {**patches, "attn2_output_patch": [*patches.get("attn2_output_patch", ()), patch]}
        return {**model_options, "transformer_options": {**options, "patches": patches}}


class _Layers:
    """A patch on the outputs (rows, tokens, C) of the chosen cross-attention layers. Rows come in equal
    chunks, each with the guidance branch and the cond that it belongs to."""

    def __init__(self, attended: Attended, views: list | None, branch: int):
        self.attended, self.branch = attended, branch
        if views is None:
            height, width = attended.canvas
            self.views, self.sources = [View(Axis(0, 1, height), Axis(0, 1, width))], {uuid: uuid for uuid in attended.uuids}
        else:
            self.views, self.sources = views, {view_uuid(uuid, views): uuid for uuid in attended.uuids}

    @property
    def size(self) -> tuple[int, int]:
        """Cells of the picture that the network sees."""
        view = self.views[0]
        return (view.height, view.width) if isinstance(view, Miniature) else (view.y.count, view.x.count)

    def guided(self, extra_options):
        """(number of the chunk, layer, uuid of the prompt or None for a region's own) of the guided conds."""
        layer = (*extra_options["block"], extra_options["block_index"])
        for i, (branch, uuid) in enumerate(zip(extra_options["cond_or_uncond"], extra_options["uuids"])):
            if branch == self.branch:
                yield i, layer, self.sources.get(uuid)


class Capture(_Layers):
    def __init__(self, attended, views):
        super().__init__(attended, views, 0)  # the small picture is shown with the positive prompt alone

    def __call__(self, n, extra_options):
        prior, (rows, columns) = self.attended.prior, extra_options["activations_shape"][-2:]
        coarse = rows <= -(-extra_options["original_shape"][-2] // prior.finest)
        if extra_options["block"][0] in LAYERS[prior.layers] and coarse:
            chunks = n.chunk(len(extra_options["uuids"]))
            for i, layer, uuid in self.guided(extra_options):
                self.attended.values[layer, uuid] = chunks[i].unflatten(1, (rows, columns))
        return n


class Read(_Layers):
    def __init__(self, attended, views):
        super().__init__(attended, views, attended.positive)
        self.weights = {}

    def __call__(self, n, extra_options):
        prior, chunks, composed = self.attended.prior, n.chunk(len(extra_options["uuids"])), {}
        for i, layer, uuid in self.guided(extra_options):
            weight = prior.weight_alone if uuid else prior.weight
            values = self.attended.of(layer, uuid)
            if weight and values is not None:
                composed[i] = compose(chunks[i], attended_region(values, *self._weights(values, *extra_options["activations_shape"][-2:])), weight)
        return torch.cat([composed.get(i, chunk) for i, chunk in enumerate(chunks)]) if composed else n

    def _weights(self, values, rows, columns):
        """Where the tokens of the views lie in `values` (B, h, w, C)."""
        key = rows, columns, *values.shape[1:3]
        if key not in self.weights:
            height, width = self.attended.canvas
            y = torch.stack([token_centres(*view.y, rows, height) for view in self.views])
            x = torch.stack([token_centres(*view.x, columns, width) for view in self.views])
            self.weights[key] = bilinear_weights(y, values.shape[1]).to(values), bilinear_weights(x, values.shape[2]).to(values)
        return self.weights[key]


def attended_bytes(network: torch.nn.Module, height: int, width: int, layers: str = "all", finest: int = 1, element_size: int = 2) -> int:
    """Memory of what is kept for one picture of `height` x `width` cells during an evaluation.

    element_size: bytes of the network's numbers; joint attention keeps float32.
    """
    if isinstance(network, UNetModel):
        return _attended_bytes_of_unet(network, height, width, layers, finest) * element_size
    patch = patch_size(network)
    tokens = -(-height // patch) * -(-width // patch) if patch >= finest else 0
    if isinstance(network, PixArtMS):
        return len(network.blocks) * network.hidden_size * tokens * element_size
    blocks = network.joint_blocks if isinstance(network, MMDiT) else [*network.double_blocks, *network.single_blocks]
    return len(blocks) * (network.hidden_size + network.num_heads) * tokens * 4


def _attended_bytes_of_unet(network, height, width, layers, finest):
    total, cells = 0, 1
    stages = [("input", stage) for stage in network.input_blocks] + [("middle", network.middle_block)] + [("output", stage) for stage in network.output_blocks]
    for part, stage in stages:
        for layer in stage:
            if isinstance(layer, Downsample):
                cells *= 2
            elif isinstance(layer, Upsample):
                cells //= 2
            elif isinstance(layer, SpatialTransformer) and part in LAYERS[layers] and cells >= finest:
                channels = sum(block.attn2.to_out[0].out_features for block in layer.transformer_blocks)
                total += channels * -(-height // cells) * -(-width // cells)
    return total
