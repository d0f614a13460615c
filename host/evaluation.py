"""What the network sees at one noise level.

One CALC_COND_BATCH wrapper per model evaluates the canvas in parts; nodes only choose the parts, so
the order in which they patch a model does not matter.
"""

from dataclasses import dataclass, field, replace

import comfy.utils
import torch
from comfy import model_management
from comfy.patcher_extension import CallbacksMP, WrappersMP

from .attention import AttentionPrior
from .conditioning import Miniature, View, has_region_prompts, signature, stack
from .demofusion import DilatedPass
from .regional import RegionalDenoise
from .sigmas import step_index

KEY = "loupe_evaluation"
LARGEST_BATCH = 16


class Call:
    """One CALC_COND_BATCH call: `x` (B, C, ..., H, W) at noise level `sigma`, step `step`."""

    def __init__(self, executor, model, conds, x, timestep, model_options, state, batch):
        self.executor, self.model, self.conds, self.x, self.timestep, self.model_options = executor, model, conds, x, timestep, model_options
        self.state, self.batch = state, batch
        self.canvas = tuple(x.shape[-2:])
        self.sigma = float(timestep[0])
        self.sample_sigmas = model_options["transformer_options"]["sample_sigmas"]
        self.step = step_index(self.sample_sigmas, self.sigma)
        self.cells = model.latent_format.spacial_downscale_ratio  # pixels per latent cell
        self.bar = None
        self.attended = None

    def whole(self) -> list[torch.Tensor]:
        """The host's own evaluation of the whole canvas."""
        return self.executor(self.model, self.conds, self.x, self.timestep, self._options())

    def views(self, pictures: list[torch.Tensor], views: list[View | Miniature], conds: list | None = None) -> list[list[torch.Tensor]]:
        """Denoised predictions, per guidance branch and view, of equally large `pictures`. `conds`: other
        than the call's."""
        branches = self.conds if conds is None else conds
        groups = {}
        for i, view in enumerate(views):
            groups.setdefault(signature(branches, view), []).append(i)
        denoised = [[None] * len(views) for _ in branches]
        size = self.batch or self._batch_that_fits(pictures[0].shape)
        for group in groups.values():
            for start in range(0, len(group), size):
                part = group[start : start + size]
                model_management.throw_exception_if_processing_interrupted()
                shown = [views[i] for i in part]
                conds = stack(branches, shown, self.canvas, len(self.x), self.model, self.state)
                x = torch.cat([pictures[i] for i in part])
                out = self.executor(self.model, conds, x, self.timestep.repeat(len(part)), self._options(shown))
                for branch, prediction in zip(denoised, out):
                    for i, picture in zip(part, prediction.chunk(len(part))):
                        branch[i] = picture
                self.bar.update(len(part))
        return denoised

    def _options(self, views=None):
        return self.model_options if self.attended is None else self.attended.options(self.model_options, views)

    def _batch_that_fits(self, shape):
        # a region with a prompt of its own sees no other
        rows = sum(1 if has_region_prompts(branch) else len(branch) for branch in self.conds if branch) * shape[0]
        required = 1.5 * self.model.memory_required([max(rows, 1), *shape[1:]])
        free = self.model.current_patcher.get_free_memory(self.x.device)
        return min(max(int(free / required), 1), LARGEST_BATCH)


@dataclass(frozen=True)
class Evaluation:
    """The parts of an evaluation. `steps_before` and `steps_total` place a run's progress in that of
    a node that samples several times."""

    regional: RegionalDenoise | None = None
    dilated: DilatedPass | None = None
    attention: AttentionPrior | None = None
    steps_before: int = 0
    steps_total: int = 0
    state: dict = field(default_factory=dict, init=False, compare=False)

    def __call__(self, executor, model, conds, x, timestep, model_options):
        call = Call(executor, model, conds, x, timestep, model_options, self.state, self.regional.batch if self.regional else 0)
        parts = sum(part.count(*call.canvas) for part in (self.regional, self.dilated, self.attention) if part is not None)
        call.bar = comfy.utils.ProgressBar((self.steps_total or len(call.sample_sigmas) - 1) * parts)
        call.bar.current = (self.steps_before + call.step) * parts

        if self.attention is not None:
            call.attended = self.attention.attend(call)
        local = call.whole() if self.regional is None else self.regional.predict(call)
        call.attended = None
        return local if self.dilated is None else self.dilated.fuse(call, local)

    def prepare(self, executor, model, noise_shape, conds, *args, **kwargs):
        """PREPARE_SAMPLING: refuse what cannot be cut, and let the host make room for one batch of
        views instead of the whole canvas."""
        if len(noise_shape) not in (4, 5):
            raise ValueError(f"The latent is packed, shape {tuple(noise_shape)}; Loupe cuts pictures and videos, (B, C, H, W) or (B, C, T, H, W). Sample this model without Loupe's patches.")
        if any("attention_mask_img_shape" in cond for branch in conds.values() for cond in branch):
            raise ValueError("The conditioning holds a style model's attention mask, which is tied to the whole canvas. Set the style model's strength type to 'multiply' or remove it.")
        height, width = noise_shape[-2:]
        sizes = [(1, height, width) if self.regional is None else self.regional.largest(height, width)]
        sizes += [part.largest(height, width) for part in (self.dilated, self.attention) if part is not None]
        rows, height, width = max(sizes, key=lambda size: size[0] * size[1] * size[2])
        return executor(model, [noise_shape[0] * rows, *noise_shape[1:-2], height, width], conds, *args, **kwargs)

    def clear(self, *_):
        self.state.clear()


def patch_evaluation(model, **parts):
    """Clone of `model` (ModelPatcher) whose evaluation has `parts` replaced (fields of `Evaluation`)."""
    model = model.clone()
    before = model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    evaluation = replace(before[0], **parts) if before else Evaluation(**parts)
    for wrapper_type, wrapper in ((WrappersMP.CALC_COND_BATCH, evaluation), (WrappersMP.PREPARE_SAMPLING, evaluation.prepare)):
        model.remove_wrappers_with_key(wrapper_type, KEY)
        model.add_wrapper_with_key(wrapper_type, KEY, wrapper)
    for callback_type in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP):
        model.remove_callbacks_with_key(callback_type, KEY)
        model.add_callback_with_key(callback_type, KEY, evaluation.clear)
    return model
