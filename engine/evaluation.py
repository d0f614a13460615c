"""What the network sees at one noise level.

One CALC_COND_BATCH wrapper per model evaluates the canvas in parts; nodes only choose the parts, so
the order in which they patch a model does not matter.
"""

import logging
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import torch
from comfy import model_management
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..patches.attention_prior import AttentionPrior
from ..patches.demofusion import DilatedPass
from ..patches.regional_denoise import RegionalDenoise
from .cache import Recent
from .conditioning import Cut, check, has_region_prompts, on_canvas, signature, stack
from .controls import check_caches, cut_hint_patches, hint_patches
from .easy_cache import SizedCache
from .other_packs import OtherPacks, network_patches
from .positions import (
    DISTANCES,
    ROPE_OPTIONS,
    Shift,
    check_compiled,
    check_positions,
    patch_size,
    shifted_options,
)
from .progress import Progress, notice
from .side_effects import guidance_by_the_last_call
from .sigmas import Step, nearest_step
from .views import Miniature, View

KEY = "loupe_evaluation"
LARGEST_BATCH = 16


class RunState:
    """What lives from the first to the last evaluation of one run."""

    def __init__(self, model_options: dict, model, positive: list | None = None, canvas: tuple[int, int] | None = None):
        self.canvas = canvas  # (height, width) of the run's latent; samplers may evaluate others
        self.levels = model_options["transformer_options"]["sample_sigmas"].tolist()
        self.positive = positive  # the guider's conds of that name
        self.recent = Recent()
        self.batches = {}  # views per network call, by the shape of a picture
        self.hints = hint_patches(model_options)
        self.cache = SizedCache(model_options)
        self.packs = OtherPacks(model_options, model)
        self.progress: Progress | None = None
        self.ended = 0  # steps whose callback has come
        self.began = False

    def step_of(self, sigma: float) -> Step:
        """The step that an evaluation at `sigma` belongs to. Samplers report each step, so that it does not hang
        on the noise level that the network is told; those that do not are read by it."""
        step = self.ended if self.ended or not self.began else nearest_step(self.levels, sigma)
        self.began = True
        return Step.of(self.levels, step)


class Call:
    """One CALC_COND_BATCH call: `x` (B, C, ..., H, W) at noise level `sigma`, step `step`."""

    def __init__(self, executor, model, conds, x, timestep, model_options, state: RunState, batch: int):
        self.executor, self.model, self.conds, self.x, self.timestep, self.model_options = executor, model, conds, x, timestep, model_options
        self.state, self.batch = state, batch
        self.canvas = tuple(x.shape[-2:])
        # the only time that an evaluation waits for the device
        self.sigma, total = torch.stack([timestep[0].float(), x.sum(dtype=torch.float32)]).tolist()
        self.step = state.step_of(self.sigma)
        check_finite(total, state.levels, self.step)
        state.recent.begin(self.step)
        state.cache.begin()
        self.conds = on_canvas(conds, self.canvas, state.recent)
        self.cells = model.latent_format.spacial_downscale_ratio  # pixels per latent cell
        self.progress = None
        self.attended = None

    @property
    def positive(self) -> int | None:
        """Number of the positive prompt's branch, which guiders and patches such as SAG give in any place, or not at all."""
        positive = self.state.positive
        return next((i for i, branch in enumerate(self.conds) if branch and (not positive or branch[0]["uuid"] == positive[0]["uuid"])), None)

    def whole(self) -> list[torch.Tensor]:
        """ComfyUI's own evaluation of the whole canvas."""
        with self.state.packs.shown(None, None, self.step), self.state.cache.of(self.canvas):
            return self.executor(self.model, self.conds, self.x, self.timestep, self._options())

    def views(self, pictures: list[torch.Tensor], views: list[View | Miniature], conds: list | None = None, placed: bool = False) -> list[list[torch.Tensor]]:
        """Denoised predictions, per guidance branch and view, of equally large `pictures`. `conds`: other
        than the call's. `placed`: the network counts positions from the canvas's corner."""
        branches = self.conds if conds is None else conds
        placed = placed and not isinstance(self.model.diffusion_model, DISTANCES)
        packs = self.state.packs
        alone = packs.add_controls(branches) or packs.alone or self.state.hints or (placed and isinstance(self.model.diffusion_model, ROPE_OPTIONS))
        groups = {}
        for i, view in enumerate(views):
            groups.setdefault(view if alone else signature(branches, view), []).append(i)
        denoised = [[None] * len(views) for _ in branches]
        shape = pictures[0].shape
        for waiting in groups.values():
            while waiting:
                part = waiting[: self._batch(shape)]
                model_management.throw_exception_if_processing_interrupted()
                self.progress.show([views[i] for i in part])
                predictions = self._predict(branches, [pictures[i] for i in part], [views[i] for i in part], placed)
                if predictions is None:
                    self._halve(shape, len(part))
                    continue
                for branch, prediction in zip(denoised, predictions):
                    for i, picture in zip(part, prediction.chunk(len(part))):
                        branch[i] = picture
                self.progress.update(len(part))
                waiting = waiting[len(part) :]
        return denoised

    def _predict(self, branches, pictures, views, placed):
        """Per branch the predictions of all views stacked; None where memory runs out and fewer views may do."""
        packs = self.state.packs
        cut = Cut(views, self.x, self.canvas, self.model, self.state.recent, {})
        try:
            with packs.shown(views, cut, self.step), self.state.cache.of(tuple(pictures[0].shape[-2:])):
                conds = stack(branches, views, self.x, self.model, self.state.recent)
                options = self._options(views)
                options = {**options, "transformer_options": packs.options(options["transformer_options"], cut, self.cells)}
                options, shift = self._placed(options, views) if placed else (options, None)
                out = self.executor(self.model, conds, torch.cat(pictures), self.timestep.repeat(len(views)), options)
        except Exception as error:
            if len(views) > 1 and out_of_memory(error):
                return None
            blamed = packs.blamed(error)
            if blamed is None or out_of_memory(error) or isinstance(error, model_management.InterruptProcessingException):
                raise
            raise ValueError(f"model carries {blamed}, which failed where the network was shown a part of the canvas ({error}). It may hold something of the whole canvas that cannot be cut: remove it, or sample without regions.") from error
        if shift is not None and not shift.used:
            raise ValueError(f"positions is 'canvas', but this version of ComfyUI does not let {type(self.model).__name__}'s positions be moved. Update ComfyUI, or set positions to 'region'.")
        return out

    def _options(self, views=None):
        options = self.model_options if self.attended is None else self.attended.options(self.model_options, views)
        if views is not None and self.state.hints:
            cut = Cut(views, self.x, self.canvas, self.model, self.state.recent, {})
            options = {**options, "transformer_options": cut_hint_patches(options["transformer_options"], self.state.hints, views[0], self.cells, cut)}
        return options

    def _placed(self, model_options, views):
        options, network = model_options["transformer_options"], self.model.diffusion_model
        if isinstance(network, ROPE_OPTIONS):
            return {**model_options, "transformer_options": shifted_options(options, views[0], network)}, None
        rope = options.get("rope_options", {})
        references = [latent for branch in self.conds for cond in branch or () if "ref_latents" in cond["model_conds"] for latent in cond["model_conds"]["ref_latents"].cond]
        shift = Shift(views, self.x, network, (rope.get("scale_y", 1.0), rope.get("scale_x", 1.0)), any(latent.shape[-2:] == self.canvas for latent in references))
        patches = options.get("patches", {})
        patches = {**patches, "post_input": [*patches.get("post_input", ()), shift]}
        return {**model_options, "transformer_options": {**options, "patches": patches}}, shift

    def _batch(self, shape):
        if shape not in self.state.batches:
            self.state.batches[shape] = self.batch or self._batch_that_fits(shape)
        return self.state.batches[shape]

    def _halve(self, shape, failed):
        self.state.batches[shape] = failed // 2
        logging.warning("Out of memory with %d regions in one network call; going on with %d.", failed, failed // 2)
        model_management.soft_empty_cache()

    def _batch_that_fits(self, shape):
        # a region with a prompt of its own sees no other
        branches = [branch[:1] if has_region_prompts(branch) else branch for branch in self.conds if branch]
        sizes = defaultdict(list)
        for cond in sum(branches, []):
            for name in self.model.memory_usage_factor_conds:
                if name in cond["model_conds"]:
                    sizes[name].append(cond["model_conds"][name].size())
        rows = sum(map(len, branches)) * shape[0]
        required = 1.5 * self.model.memory_required([max(rows, 1), *shape[1:]], cond_shapes=sizes)
        free = self.model.current_patcher.get_free_memory(self.x.device)
        return min(max(int(free / required), 1), LARGEST_BATCH)


def out_of_memory(error: Exception) -> bool:
    is_oom = getattr(model_management, "is_oom", None)  # a later ComfyUI
    return isinstance(error, model_management.OOM_EXCEPTION) if is_oom is None else is_oom(error)


def check_finite(total: float, levels: list[float], step: int) -> None:
    """Raises ValueError for a latent whose sum is not a number, before step `step` of the schedule."""
    if math.isfinite(total):
        return
    if step == 0:
        raise ValueError("The latent to be sampled, or its noise, holds NaN or infinity. Look at the nodes that make it; a VAE in half precision is a common cause.")
    raise ValueError(
        f"The model's prediction at step {step} of {len(levels) - 1} (sigma {levels[step - 1]:.4g}) holds NaN or infinity. "
        "Lower the CFG, or run the model in another precision (--bf16-unet, --fp32-unet)."
    )


@dataclass(frozen=True)
class Evaluation:
    """The parts of an evaluation. `steps_before`, `steps_total` and `later`, the pictures of the runs
    that follow, place a run's progress in that of a node that samples several times."""

    regional: RegionalDenoise | None = None
    dilated: DilatedPass | None = None
    attention: AttentionPrior | None = None
    steps_before: int = 0
    steps_total: int = 0
    later: int = 0
    runs: list[RunState] = field(default_factory=list, init=False, compare=False)

    @property
    def parts(self) -> list:
        return [part for part in (self.regional, self.dilated, self.attention) if part is not None]

    def __call__(self, executor, model, conds, x, timestep, model_options):
        if not self.runs:
            self.runs.append(RunState(model_options, model))
        call = Call(executor, model, conds, x, timestep, model_options, self.runs[0], self.regional.batch if self.regional else 0)
        if isinstance(self.regional, RegionalDenoise):
            self.regional.check_canvas(call.canvas, call.state.canvas or call.canvas)
        call.progress = self._progress(call)
        if self.attention is not None:
            self.attention.attend(call)
        local = call.whole() if self.regional is None else self.regional.predict(call)
        call.attended = None
        return local if self.dilated is None else self.dilated.fuse(call, local)

    def count(self, height: int, width: int) -> int:
        """Views that the network is shown of a canvas of so many cells, at one noise level."""
        return sum(part.count(height, width) for part in self.parts)

    def _progress(self, call):
        parts = self.count(*call.canvas)
        if call.state.progress is None:
            end = self.steps_before + len(call.state.levels) - 1
            steps = self.steps_total or end
            call.state.progress = Progress(call.canvas, steps, steps * parts, end * parts, self.later)
        step = self.steps_before + call.step
        call.state.progress.begin(step, step * parts, parts)
        return call.state.progress

    def prepare(self, executor, model, noise_shape, conds, *args, **kwargs):
        """PREPARE_SAMPLING: refuse what cannot be cut, and let ComfyUI make room for one batch of
        views instead of the whole canvas."""
        if len(noise_shape) not in (4, 5):
            raise ValueError(f"The latent is packed, shape {tuple(noise_shape)}; Loupe cuts pictures and videos, (B, C, H, W) or (B, C, T, H, W). Sample this model without Loupe's patches.")
        check(model.model, conds)
        hint_patches(model.model_options)
        height, width = noise_shape[-2:]
        if self.count(height, width) + (self.regional is None) > 1:
            check_caches(model.model_options)
            check_compiled(model, getattr(self.regional, "positions", "region"))
        if getattr(self.regional, "positions", "region") == "canvas":
            check_positions(model.model)
        sizes = [(1, height, width)] if self.regional is None else []
        sizes += [part.largest(height, width) for part in self.parts]
        rows, height, width = max(sizes, key=lambda size: size[0] * size[1] * size[2])
        return executor(model, [noise_shape[0] * rows, *noise_shape[1:-2], height, width], conds, *args, **kwargs)

    def run(self, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        """SAMPLER_SAMPLE: the last prediction has no evaluation after it that would look at it."""
        state = RunState(extra_args["model_options"], guider.inner_model, guider.conds.get("positive"), tuple(noise.shape[-2:]))
        self.runs[:] = [state]

        def ended(*reported):
            state.ended += 1
            if callback is not None:
                callback(*reported)

        x = executor(guider, sigmas, extra_args, ended, noise, *args, **kwargs)
        check_finite(float(x.sum(dtype=torch.float32)), state.levels, len(state.levels) - 1)
        for text in self._notices(state, guider, extra_args["model_options"], x.shape[-2:]):
            notice(text)
        return x

    def _notices(self, state, guider, model_options, size):
        """What a person should know of a run that has ended."""
        if self.dilated is not None:
            yield from self.dilated.notices(state.levels, guider.inner_model.model_sampling, *size)
        recording = guidance_by_the_last_call(model_options, [patch for _, patch in network_patches(model_options)])
        if recording and self.count(*size) > 1:
            yield f"{', '.join(recording)} looks at what the network left in its last call, which was a region and not the whole image. Remove that node, or sample without regions."

    def clear(self, *_):
        self.runs.clear()


def patch_evaluation(model, **parts):
    """Clone of `model` (ModelPatcher) whose evaluation has `parts` replaced (fields of `Evaluation`)."""
    model = model.clone()
    before = model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    evaluation = replace(before[0], **parts) if before else Evaluation(**parts)
    patch = patch_size(model.get_model_object("diffusion_model"))
    cut = {name: part for name in ("regional", "dilated") if isinstance(part := getattr(evaluation, name), (RegionalDenoise, DilatedPass))}
    evaluation = replace(evaluation, **{name: replace(part, patch=patch) for name, part in cut.items()})
    if "regional" in cut:
        cells = model.get_model_object("latent_format").spacial_downscale_ratio
        evaluation = replace(evaluation, regional=replace(evaluation.regional, pixels_per_cell=cells))
    wrappers = ((WrappersMP.CALC_COND_BATCH, evaluation), (WrappersMP.PREPARE_SAMPLING, evaluation.prepare), (WrappersMP.SAMPLER_SAMPLE, evaluation.run))
    for wrapper_type, wrapper in wrappers:
        model.remove_wrappers_with_key(wrapper_type, KEY)
        model.add_wrapper_with_key(wrapper_type, KEY, wrapper)
    for callback_type in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP):
        model.remove_callbacks_with_key(callback_type, KEY)
        model.add_callback_with_key(callback_type, KEY, evaluation.clear)
    return model


def evaluation_of(model) -> Evaluation | None:
    """What `patch_evaluation` has put on `model` (ModelPatcher)."""
    found = model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    return found[0] if found else None
