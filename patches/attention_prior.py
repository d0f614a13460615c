"""C-Upscale's regional attention prior as a part.

Before the regions of an evaluation, the network sees the small image at the same noise level with
the global prompt, and the output of its cross-attention layers is kept until the evaluation ends.
The regions' layers read it at their place.
"""

from dataclasses import dataclass
from typing import ClassVar

import comfy.utils
import torch

from ..engine import Part, ViewPatch, Work
from ..engine.attention import (
    LAYERS,
    output_bytes,
    output_patched,
)
from ..engine.conditioning import REGION, view_uuid
from ..engine.cross_attention import attends_to_images
from ..engine.families import family_of
from ..engine.views import Axis, SmallView, View
from ..methods.attention_prior import (
    attended_region,
    bilinear_weights,
    compose,
    token_centers,
)
from ..methods.noise import seeded_noise, stream

NOISES = ("fixed", "fresh")
INSTEAD = "Use the Structure Prior and Region Prompts instead, which work with every model."


@dataclass(frozen=True, eq=False)
class AttentionPrior(Part):
    """reference: the small image at the model's native area, unscaled (B, C, h, w) or (B, C, 1, h, w).

    weight: share of the prior where a region has a prompt of its own; weight_alone: where all regions
    share the global prompt. layers: a key of LAYERS; finest: leaves out layers with fewer cells to the
    side of a token. noise: "fixed" for a run or "fresh" for every step, drawn from `seed` for each image of
    the reference, by its place `batch_index` in a batch.
    """

    title: ClassVar[str] = "Regional Attention Prior"
    key: ClassVar[str] = "attention_prior"
    rank: ClassVar[int] = 20

    reference: torch.Tensor
    weight: float = 0.5
    weight_alone: float = 1.0
    layers: str = "all"
    finest: int = 1
    noise: str = "fixed"
    seed: int = 0
    batch_index: list[int] | None = None

    def check(self, model, canvas=None):
        """Raises ValueError for a model (ModelPatcher) whose attention to the text cannot be read, and for videos."""
        name, network = type(model.model).__name__, model.get_model_object("diffusion_model")
        attention = family_of(model.model, network).attention
        if attention is None:
            raise ValueError(f"model is {name}, whose attention to the text cannot be read; the Attention Prior works with SD 1.5, SD 2, SDXL, PixArt, Cosmos Predict2, Anima and Wan. {INSTEAD}")
        if attention == "cross_attn" and attends_to_images(network):
            raise ValueError(f"model is {name} for image to video, whose attention to an image cannot be told from that to the text. {INSTEAD}")
        if attention != "unet" and self.layers != "all":
            raise ValueError(f"layers is {self.layers!r}, but {name} has no encoder and decoder. Set layers to 'all'.")
        _refuse_video(self.reference, "reference")

    def works(self, model, canvas, sigma, inner):
        if not self.weight and not self.weight_alone:
            return inner
        height, width = self.reference.shape[-2:]
        kept = output_bytes(model, height, width, self.layers, self.finest, model.get_dtype_inference().itemsize)
        # the image is shown with the positive prompt alone
        return [*inner, Work("attention prior", 1, height, width, kept, guided=False)]

    def evaluate(self, call, inner):
        """The predictions of a canvas whose regions read what the network has made of the small image."""
        branch = [] if call.positive is None else call.conds[call.positive]
        if not any(self.weight if REGION in cond else self.weight_alone for cond in branch):
            return inner(call)
        _refuse_video(call.x, "the sampled latent")
        whole = self._whole(call, branch)
        when = "fixed" if self.noise == "fixed" else call.step.level
        reference, noise = call.run.cache.get(("attention_prior", when), lambda: self._drawn(call, when))
        size = tuple(reference.shape[-2:])
        pixels = tuple(side * call.canvas.pixels_per_cell for side in size)
        attending = call.patched(Attended(self, call, [cond["uuid"] for cond in whole]))
        x = call.model.model_sampling.noise_scaling(call.timestep[:1], noise, reference)
        attending.predict_views([x], [SmallView(*size, call.canvas.size, (*pixels, 0, 0, *pixels))], [whole])
        return inner(attending)

    def _whole(self, call, branch):
        """The prompts of the whole image. Raises ValueError for those that the prior cannot follow."""
        if any("area" in cond for cond in branch):  # ComfyUI gives each branch the areas of the other
            raise ValueError("positive or negative is limited to an area, which the Attention Prior cannot follow. Limit it by a mask (Conditioning (Set Mask)) instead.")
        whole = [cond for cond in branch if REGION not in cond]
        if not whole:
            raise ValueError("positive holds prompts of regions, but none of the whole image, which the Attention Prior needs. Connect the output of Region Prompts as it is.")
        return whole

    def _drawn(self, call, when):
        """Scaled reference and noise, an image of the reference for each of the canvas."""
        noise = seeded_noise(self.reference.shape, stream(self.seed, f"attention prior {when}"), self.batch_index)
        return tuple(comfy.utils.repeat_to_batch_size(x.to(call.x), len(call.x)) for x in (call.model.process_latent_in(self.reference), noise))


def _refuse_video(latent, socket):
    if latent.ndim == 5 and latent.shape[2] > 1:
        raise ValueError(f"{socket} has {latent.shape[2]} frames; the Attention Prior works on images, which have one. {INSTEAD}")


class Attended(ViewPatch):
    """What the cross-attention layers made of the small image, for the length of one evaluation `call`.

    uuids: of the positive prompts of the whole image.
    """

    def __init__(self, prior: AttentionPrior, call, uuids: list):
        self.prior, self.positive, self.uuids = prior, call.positive, uuids
        self.model, self.canvas = call.model, call.canvas.size
        self.values, self.has_more_tokens = {}, False

    def of(self, layer: tuple, uuid) -> torch.Tensor | None:
        """Values (B, h, w, C) under the prompt `uuid`; for None under the first that acts at this noise level."""
        return next((self.values[layer, key] for key in ([uuid] if uuid else self.uuids) if (layer, key) in self.values), None)

    def options(self, options, call, views):
        patch = Capture(self, views) if views and isinstance(views[0], SmallView) else Read(self, views)
        return output_patched(options, self.model, patch)

    def after(self):
        if self.has_more_tokens:
            raise ValueError("positive holds images of its own (reference latents, poses), which the Attention Prior cannot tell from the sampled one. Remove them, or the prior.")


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

    def guided(self, extra_options):
        """(number of the chunk, layer, uuid of the prompt or None for a region's own) of the guided conds."""
        layer = (*extra_options["block"], extra_options["block_index"])
        for i, (branch, uuid) in enumerate(zip(extra_options["cond_or_uncond"], extra_options["uuids"])):
            if branch == self.branch:
                yield i, layer, self.sources.get(uuid)


class Capture(_Layers):
    def __init__(self, attended, views):
        super().__init__(attended, views, 0)  # the small image is shown with the positive prompt alone

    def __call__(self, n, extra_options):
        prior, (rows, columns) = self.attended.prior, extra_options["activations_shape"][-2:]
        coarse = rows <= -(-extra_options["original_shape"][-2] // prior.finest)
        if n.shape[1] != rows * columns:
            self.attended.has_more_tokens = True
        elif extra_options["block"][0] in LAYERS[prior.layers] and coarse:
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
                values = values.to(n.device)  # of a copy of the network on another device
                composed[i] = compose(chunks[i], attended_region(values, *self._weights(values, *extra_options["activations_shape"][-2:])), weight)
        return torch.cat([composed.get(i, chunk) for i, chunk in enumerate(chunks)]) if composed else n

    def _weights(self, values, rows, columns):
        """Where the tokens of the views lie in `values` (B, h, w, C)."""
        key = rows, columns, values.shape[1:3], values.device, values.dtype
        if key not in self.weights:
            height, width = self.attended.canvas
            y = torch.stack([token_centers(*view.y, rows, height) for view in self.views])
            x = torch.stack([token_centers(*view.x, columns, width) for view in self.views])
            like = {"device": values.device, "dtype": values.dtype, "non_blocking": True}
            self.weights[key] = bilinear_weights(y, values.shape[1]).to(**like), bilinear_weights(x, values.shape[2]).to(**like)
        return self.weights[key]
