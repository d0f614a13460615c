"""The engine: runs the parts on a model at ComfyUI's three hooks, and names none of them.

PREPARE_SAMPLING checks and asks for memory, SAMPLER_SAMPLE makes the Run and edits the sampler's state,
CALC_COND_BATCH evaluates the canvas. Parts are ordered by rank, so the order in which nodes patch a model
does not matter.
"""

from contextlib import contextmanager
from functools import reduce

import torch
from comfy.patcher_extension import WrappersMP

from .call import Call
from .conditioning import check_conditioning
from .controls import check_caches, hint_patches
from .other_packs import network_patches
from .part import Part, Predictions
from .positions import check_compiled
from .progress import Maker, Progress, Span, browser, notice
from .run import Run
from .side_effects import guidance_by_the_last_call
from .step_edits import edited
from .views import Canvas
from .work import Work, in_parts

KEY = "loupe"


class Engine:
    """`parts` by key. Shared between runs, it keeps nothing of them. span: of all its runs. makers: the nodes that have
    put them on the model, by key."""

    def __init__(self, parts: dict[str, Part], span: Span | None = None, makers: dict[str, Maker | None] | None = None):
        self.parts = dict(sorted(parts.items(), key=lambda item: (item[1].rank, item[0])))
        self.evaluating = [part for part in self.parts.values() if part.overrides("evaluate")]
        self.span = span
        self.makers = makers or {}

    @property
    def regions_per_call(self) -> int:
        """Most views in one network call, 0 for what fits into memory."""
        return min((part.regions_per_call for part in self.evaluating if part.regions_per_call), default=0)

    def works(self, model, canvas: Canvas, sigma: float | None = None) -> list[Work]:
        """What the network of `model` (BaseModel) sees in one evaluation of `canvas`; see `Part.works`."""
        whole = [Work("whole latent", 1, *canvas.size)]
        return reduce(lambda works, part: part.works(model, canvas, sigma, works), reversed(self.evaluating), whole)

    def count(self, model, canvas: Canvas, sigma: float | None = None) -> int:
        """Views in one evaluation of `canvas`."""
        return sum(work.views for work in self.works(model, canvas, sigma))

    def prepare(self, executor, model, noise_shape, conds, *args, **kwargs):
        """PREPARE_SAMPLING: refuse what cannot work, and ask ComfyUI to make room for one call of views instead of the
        whole canvas."""
        if self.evaluating:
            check_latent(noise_shape)
        canvas = Canvas.of(model.model, *noise_shape[-2:])
        for part in self.parts.values():
            part.check(model, canvas)
        if self.evaluating:
            hint_patches(model.model_options)
            works = self.works(model.model, canvas)
            if in_parts(works, canvas.size):
                check_conditioning(model.model, conds, canvas)
            if sum(work.views for work in works) > 1:
                check_views(model)
            noise_shape = self._largest_call(works, noise_shape)
        return executor(model, noise_shape, conds, *args, **kwargs)

    def _largest_call(self, works, shape):
        calls = [(min(self.regions_per_call or 1, work.views), work.height, work.width) for work in works]
        rows, height, width = max(calls, key=lambda call: call[0] * call[1] * call[2])
        return [shape[0] * rows, *shape[1:-2], height, width]

    def sample(self, executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *args, **kwargs):
        """SAMPLER_SAMPLE: one run."""
        options = extra_args["model_options"]
        run = Run(
            guider.inner_model,
            sigmas,
            noise,
            latent_image,
            denoise_mask,
            seed=extra_args.get("seed") or 0,
            positive=guider.conds.get("positive"),
            options=options,
            span=self.span,
            guider=guider,
        )
        edits = {part.title or part.key: part.edits(run) for part in self.parts.values() if part.overrides("edits")}
        shown = browser()
        if shown is not None:
            shown.began([maker for maker in self.makers.values() if maker is not None], run)

        def finished(x, sigma):
            for edit in edits.values():
                x = x if edit.finish is None else edit.finish(x, sigma)
            return x

        def reported(step, denoised, *rest):
            run.ended += 1
            if callback is not None:
                callback(step, finished(denoised, 0.0) if step == run.steps - 1 else denoised, *rest)

        with edited(executor.class_obj, run, edits), stopping(run):
            x = executor(guider, sigmas, {**extra_args, "model_options": run.into(options)}, reported, noise, latent_image, denoise_mask, *args, **kwargs)
        if self.evaluating:
            # the last prediction has no evaluation after it that would look at it
            run.check_finite(float(x.sum(dtype=torch.float32)), run.steps)
        for part in self.parts.values():
            for text in part.notices(run):
                notice(text)
        return finished(x, run.schedule[-1] if run.schedule else 0.0)

    def evaluate(self, executor, model, conds, x, timestep, options):
        """CALC_COND_BATCH: the canvas's predictions, of each guidance branch."""
        run = Run.of(options) or Run.outside_a_sampler(model, options)
        call = Call.of(run, executor, model, conds, x, timestep, options, self._progress(run, x), self.regions_per_call)
        return self._chain(self.evaluating, call)

    def _chain(self, parts: list[Part], call: Call) -> Predictions:
        return parts[0].evaluate(call, lambda call: self._chain(parts[1:], call)) if parts else call.predict_whole()

    def _progress(self, run, x):
        if run.progress is None:
            canvas = Canvas.of(run.model, *(run.size or x.shape[-2:]))
            run.progress = Progress(canvas.size, [self.count(run.model, canvas, sigma) for sigma in run.schedule[:-1]] or [1], self.span)
        return run.progress


@contextmanager
def stopping(run):
    """What interrupts the run is told in its words."""
    try:
        yield
    except BaseException:
        if run.progress is not None:
            run.progress.stop()
        raise


def check_latent(shape) -> None:
    """Raises ValueError for a latent that has no rows and columns."""
    if len(shape) not in (4, 5):
        raise ValueError(f"The latent is packed, shape {tuple(shape)}; Loupe cuts images and videos, (B, C, H, W) or (B, C, T, H, W). Sample this model without Loupe's patches.")


def check_views(model) -> None:
    """Raises ValueError for what the patches on `model` (ModelPatcher) cannot do where the network sees more than the
    whole canvas in one evaluation."""
    check_caches(model.model_options)
    check_compiled(model)
    recording = guidance_by_the_last_call(model.model_options, [patch for _, patch in network_patches(model.model_options)])
    if recording:
        raise ValueError(f"model carries {', '.join(recording)}, which looks at what the network left in its last call: that is one region and not the whole image. Remove that node, or sample without regions.")


def with_parts(model, *parts: Part, span: Span | None = None):
    """Clone of `model` (ModelPatcher) with `parts` added; one with the same key is replaced.

    Raises ValueError for a model that a part cannot work on.
    """
    for part in parts:
        part.check(model)
    before = engine_of(model)
    makers = {**before.makers, **dict.fromkeys((part.key for part in parts), Maker.executing())}
    engine = Engine({**before.parts, **{part.key: part for part in parts}}, span, makers)
    model = _bare(model)
    for part in parts:
        model = part.attach(model)
    hooks = {WrappersMP.PREPARE_SAMPLING: engine.prepare, WrappersMP.SAMPLER_SAMPLE: engine.sample}
    if engine.evaluating:
        hooks[WrappersMP.CALC_COND_BATCH] = engine.evaluate
    for wrapper_type, hook in hooks.items():
        model.add_wrapper_with_key(wrapper_type, KEY, hook)
    return model


def engine_of(model) -> Engine:
    """What runs on `model` (ModelPatcher); an engine without parts where there is none."""
    found = model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY)
    return found[0].__self__ if found else Engine({})


def parts_of(model) -> dict[str, Part]:
    """The parts on `model` (ModelPatcher) by key, by rank."""
    return engine_of(model).parts


def without_parts(model, *keys: str):
    """Clone of `model` (ModelPatcher) without the parts of these keys, or without any."""
    kept = [part for key, part in parts_of(model).items() if keys and key not in keys]
    return with_parts(_bare(model), *kept) if kept else _bare(model)


def _bare(model):
    model = model.clone()
    for wrapper_type in (WrappersMP.PREPARE_SAMPLING, WrappersMP.SAMPLER_SAMPLE, WrappersMP.CALC_COND_BATCH):
        model.remove_wrappers_with_key(wrapper_type, KEY)
    return model
