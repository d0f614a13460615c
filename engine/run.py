"""One sampler run: what lives from its first to its last evaluation."""

import copy
import functools
import math
from collections.abc import Callable

import torch

from ..methods.schedules import Levels, RunLevels
from .cache import StepCache
from .controls import hint_view_patches
from .easy_cache import SizedCache
from .other_packs import OtherPacks
from .progress import Progress, Span
from .sigmas import Step, levels_of, nearest_step

KEY = "loupe_run"  # in the model options of its evaluations


class Run:
    """A run of `model` (BaseModel) along `sigmas`, scaled latents.

    schedule: `sigmas` as numbers. noise: unit noise, of the canvas's shape. latent_image, denoise_mask: None where
    there are none. positive: the guider's conds of that name. options: the run's model options. span: its place in
    a node that samples several times. guider: what the sampler evaluates (CFGGuider). draws_noise: the sampler adds noise of its own; known where its state is edited.
    """

    def __init__(self, model, sigmas: torch.Tensor, noise=None, latent_image=None, denoise_mask=None, seed: int = 0, positive: list | None = None, options: dict | None = None, span: Span | None = None, guider=None):
        self.model, self.noise, self.latent_image = model, noise, latent_image
        self.denoise_mask, self.seed, self.positive, self.options, self.span = denoise_mask, seed, positive, options or {}, span
        self.guider, self.sigmas = guider, sigmas
        self.schedule: list[float] = sigmas.tolist()
        self.cache = StepCache()
        self.batches = {}  # views in one network call, by the shape of a view
        self.progress: Progress | None = None
        self.ended = 0  # steps that the sampler has reported
        self.began = False
        self.draws_noise = False

    def __deepcopy__(self, memo):
        return self  # other packs copy model options, which does not begin another run

    @staticmethod
    def of(options: dict) -> "Run | None":
        """The run that an evaluation with these model options belongs to."""
        return options.get(KEY)

    @classmethod
    def outside_a_sampler(cls, model, options: dict) -> "Run":
        """For an evaluation that no sampler asks for."""
        return cls(model, options["transformer_options"]["sample_sigmas"], options=options)

    def into(self, options: dict) -> dict:
        """Copy of model `options` by which evaluations find this run."""
        return {**options, KEY: self}

    @property
    def steps(self) -> int:
        return max(len(self.schedule) - 1, 0)

    @property
    def size(self) -> tuple[int, int] | None:
        """Cells (height, width) of the latent that is sampled; None outside a sampler. Samplers may evaluate others."""
        return None if self.noise is None else tuple(self.noise.shape[-2:])

    @functools.cached_property
    def packs(self) -> OtherPacks:
        """What other packs have put on the model."""
        return OtherPacks(self.options, self.model)

    @functools.cached_property
    def easy_cache(self) -> SizedCache:
        return SizedCache(self.options)

    @functools.cached_property
    def patches(self) -> tuple:
        """What every network call on views of this run changes, as ViewPatches."""
        return hint_view_patches(self.options)

    @functools.cached_property
    def sampling(self):
        """The model's noise levels on the CPU, so that asking them waits for no device."""
        sampling = copy.copy(self.model.model_sampling)
        sampling._buffers = {name: buffer if buffer is None else buffer.cpu() for name, buffer in sampling._buffers.items()}
        return sampling

    @functools.cached_property
    def levels(self) -> Levels:
        """What the model's sigmas say of noise and signal."""
        return levels_of(self.sampling)

    @functools.cached_property
    def walked(self) -> RunLevels:
        return RunLevels([self.levels.timestep(sigma) for sigma in self.schedule], self.levels)

    @property
    def timesteps(self) -> list[float]:
        """Of the levels of the schedule, 0..999."""
        return self.walked.timesteps

    @property
    def published(self) -> bool:
        """See `RunLevels.published`."""
        return self.walked.published

    def share(self, share: Callable[[float], float], step: int) -> float:
        """See `RunLevels.share`."""
        return self.walked.share(share, step)

    def kept(self, sigma: torch.Tensor) -> torch.Tensor | None:
        """Cells (height, width), on the CPU, that the noise mask keeps in every image at `sigma` (B,): whatever is predicted
        there, ComfyUI puts the latent back. None without a mask."""
        if self.denoise_mask is None or self.latent_image is None:
            return None
        change = self.options.get("denoise_mask_function")
        if change is None or self.guider is None:
            return self.cache.get("kept", lambda: _kept(self.denoise_mask))
        return _kept(change(sigma, self.denoise_mask, extra_options={"model": self.guider, "sigmas": self.sigmas}))

    def read(self, sigma: torch.Tensor, x: torch.Tensor) -> tuple[float, float]:
        """The noise level (B,) and the sum of a latent about to be evaluated, as numbers: the only time that an
        evaluation waits for the device."""
        return tuple(torch.stack([sigma[0].float(), x.sum(dtype=torch.float32)]).tolist())

    def step_of(self, sigma: float) -> Step:
        """The step that an evaluation at `sigma` belongs to. Samplers report each step, so that it does not hang
        on the noise level that the network is told; those that do not are read by it."""
        step = self.ended if self.ended or not self.began else nearest_step(self.schedule, sigma)
        self.began = True
        return Step.of(self.levels, self.schedule, step)

    def check_finite(self, total: float, step: int) -> None:
        """Raises ValueError for a latent whose sum is not a number, before step `step`."""
        if math.isfinite(total):
            return
        if step == 0:
            raise ValueError("The latent to be sampled, or its noise, holds NaN or infinity. Look at the nodes that make it; a VAE in half precision is a common cause.")
        raise ValueError(
            f"The model's prediction at step {step} of {self.steps} (sigma {self.schedule[step - 1]:.4g}) holds NaN or infinity. "
            "Lower the CFG, or run the model in another precision (--bf16-unet, --fp32-unet)."
        )


def _kept(mask):
    return (mask == 0).flatten(0, -3).all(0).cpu()
