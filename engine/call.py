"""One evaluation of the canvas, and what the network is shown of it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from comfy import model_management
from comfy.model_base import BaseModel

from .conditioning import Crop, conds_for, has_region_prompts, on_canvas, signatures
from .progress import Progress
from .run import Run
from .sigmas import Step
from .views import Axis, Canvas, SmallView, View, ViewPatch

LARGEST_BATCH = 16


@dataclass(frozen=True)
class Call:
    """`x` (B, C, ..., H, W) at noise level `sigma`, step `step`, to be denoised under `conds` (None or a list of
    ComfyUI's cond dicts for each guidance branch). It never changes, and never waits for the device.

    patches: ViewPatches of its network calls. progress: where its views are counted.
    """

    run: Run
    executor: Callable[..., list[torch.Tensor]]
    model: BaseModel
    conds: list
    x: torch.Tensor
    timestep: torch.Tensor
    options: dict
    sigma: float
    step: Step
    canvas: Canvas
    progress: Progress
    regions_per_call: int = 0
    patches: tuple[ViewPatch, ...] = ()

    @classmethod
    def of(cls, run: Run, executor, model, conds, x, timestep, options, progress: Progress, regions_per_call=0) -> "Call":
        """The call that ComfyUI makes of CALC_COND_BATCH.

        Raises ValueError for a latent that is not finite.
        """
        sigma, total = run.read(timestep, x)
        step = run.step_of(sigma)
        run.check_finite(total, step)
        run.cache.begin(step)
        run.easy_cache.begin()
        return cls(
            run,
            executor,
            model,
            conds,
            x,
            timestep,
            options,
            sigma=sigma,
            step=step,
            canvas=Canvas.of(model, *x.shape[-2:]),
            progress=progress.begin(step),
            regions_per_call=regions_per_call,
            patches=run.patches,
        )

    @property
    def positive(self) -> int | None:
        """Number of the positive prompt's branch, which guiders and patches such as SAG give in any place, or not at all."""
        positive = self.run.positive
        return next((i for i, branch in enumerate(self.conds) if branch and (not positive or branch[0]["uuid"] == positive[0]["uuid"])), None)

    def patched(self, patch: ViewPatch) -> "Call":
        """The same call, its network calls changed by `patch` as well."""
        return replace(self, patches=(*self.patches, patch))

    def under(self, conds: list) -> "Call":
        """The same call for other `conds`."""
        return replace(self, conds=conds)

    def on(self, x: torch.Tensor, progress: Progress) -> "Call":
        """The same call for another latent (B, C, ..., H, W) at this noise level, all of which is the canvas."""
        canvas = self.canvas._replace(height=x.shape[-2], width=x.shape[-1])
        return replace(self, x=x, timestep=self.timestep[: len(x)], canvas=canvas, progress=progress)

    def predict_where_asked(self, images: list[torch.Tensor], views: list[View]) -> list[list[torch.Tensor]]:
        """`predict_views` of those that the noise mask does not keep as a whole. The others, whose predictions nothing looks
        at, get the latent that stays there."""
        kept = self.run.kept(self.timestep) if self.canvas.size == self.run.size else None
        if kept is None or self.run.latent_image.shape != self.x.shape:
            return self.predict_views(images, views)
        asked = [i for i, view in enumerate(views) if not bool(view.latent(kept).all())]
        self.progress.skip(len(views) - len(asked))
        predicted = self.predict_views([images[i] for i in asked], [views[i] for i in asked]) if asked else [[] for _ in self.conds]
        stays = {i: view.latent(self.run.latent_image).to(self.x) for i, view in enumerate(views) if i not in asked}
        found = [{**stays, **dict(zip(asked, branch))} for branch in predicted]
        return [[branch[i] for i in range(len(views))] for branch in found]

    def predict_whole(self) -> list[torch.Tensor]:
        """ComfyUI's own evaluation of the whole canvas, of each guidance branch."""
        whole = View(Axis(0, 1, self.canvas.height), Axis(0, 1, self.canvas.width))
        self.progress.show([whole])
        with self.run.packs.shown(None, None, self.step), self.run.easy_cache.of(self.canvas.size):
            out = self.executor(self.model, on_canvas(self.conds, self.canvas.size, self.run.cache), self.x, self.timestep, self._options(None))
        self.progress.update(1)
        return out

    def predict_views(self, images: list[torch.Tensor], views: Sequence[View | SmallView], conds: list | None = None) -> list[list[torch.Tensor]]:
        """Denoised predictions, per guidance branch and view, of equally large `images`. `conds`: other than the
        call's."""
        branches = on_canvas(self.conds if conds is None else conds, self.canvas.size, self.run.cache)
        alone = self.run.packs.add_controls(branches) or self.run.packs.alone or any(patch.one_by_one for patch in self.patches)
        groups = {}
        for i, kind in enumerate(views if alone else signatures(branches, views)):
            groups.setdefault(kind, []).append(i)
        denoised: list[list] = [[None] * len(views) for _ in branches]
        shape = images[0].shape
        for waiting in groups.values():
            while waiting:
                part = waiting[: self._batch(shape)]
                model_management.throw_exception_if_processing_interrupted()
                self.progress.show([views[i] for i in part])
                predictions = self._predict(branches, [images[i] for i in part], [views[i] for i in part])
                if predictions is None:
                    self._halve(shape, len(part))
                    continue
                for branch, prediction in zip(denoised, predictions):
                    for i, image in zip(part, prediction.chunk(len(part))):
                        branch[i] = image
                self.progress.update(len(part))
                waiting = waiting[len(part) :]
        return denoised

    def _predict(self, branches, images, views):
        """Per branch the predictions of all views stacked; None where memory runs out and fewer views may do."""
        packs, cache = self.run.packs, self.run.cache
        crop = Crop(views, self.x, self.canvas.size, self.model, cache, {})
        try:
            with packs.shown(views, crop, self.step), self.run.easy_cache.of(tuple(images[0].shape[-2:])):
                conds = conds_for(branches, views, self.x, self.model, cache)
                options = self._options(views)
                options = {**options, "transformer_options": packs.options(options["transformer_options"], crop, self.canvas.pixels_per_cell)}
                out = self.executor(self.model, conds, torch.cat(images), self.timestep.repeat(len(views)), options)
        except Exception as error:
            if len(views) > 1 and out_of_memory(error):
                return None
            blamed = packs.blamed(error)
            if blamed is None or out_of_memory(error) or isinstance(error, model_management.InterruptProcessingException):
                raise
            raise ValueError(f"model carries {blamed}, which failed where the network was shown a part of the canvas ({error}). It may hold something of the whole canvas that cannot be cut: remove it, or sample without regions.") from error
        for patch in self.patches:
            patch.after()
        return out

    def _options(self, views):
        options = self.options
        for patch in self.patches:
            options = patch.options(options, self, views)
        return options

    def _batch(self, shape):
        batches = self.run.batches
        if shape not in batches:
            batches[shape] = self.regions_per_call or self._batch_that_fits(shape)
        return batches[shape]

    def _halve(self, shape, failed):
        self.run.batches[shape] = failed // 2
        logging.getLogger("loupe").warning("Loupe: out of memory with %d regions in one network call; going on with %d.", failed, failed // 2)
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
