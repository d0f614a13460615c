"""What a method adds to a run."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch

from .call import Call
from .run import Run
from .step_edits import Edits
from .views import Canvas
from .work import Work

Predictions = list[torch.Tensor]  # denoised, of each guidance branch


class Part:
    """One method on a model. It is shared between runs and keeps nothing of them.

    title: what messages call it, the name of its node; the key where it is empty. key: another part of this key on the model is replaced. rank: evaluations are nested by it, the lowest outermost;
    edits run from the lowest to the highest. regions_per_call: most views in one network call, 0 for what fits into
    memory.
    """

    title: ClassVar[str] = ""
    key: ClassVar[str]
    rank: ClassVar[int] = 50
    regions_per_call = 0

    def attach(self, model):
        """`model` (ModelPatcher), or a clone with the object patches that the part needs."""
        return model

    def check(self, model, canvas: Canvas | None = None) -> None:
        """Raises ValueError for a `model` (ModelPatcher) that the part cannot work on: when it is put there, and again
        before it samples a `canvas`."""

    def works(self, model, canvas: Canvas, sigma: float | None, inner: list[Work]) -> list[Work]:
        """What the network of `model` (BaseModel) sees of `canvas` in one evaluation at noise level `sigma`, or at
        most where that is None; `inner`: without this part."""
        return inner

    def evaluate(self, call: Call, inner: Callable[[Call], Predictions]) -> Predictions:
        """The canvas's predictions; `inner(call)` are those without this part."""
        return inner(call)

    def edits(self, run: Run) -> Edits:
        """What it does to the sampler's state in one run."""
        return Edits()

    def notices(self, run: Run) -> Iterator[str]:
        """What a person should know of a run that has ended."""
        return iter(())

    @classmethod
    def overrides(cls, name: str) -> bool:
        """Whether this part has a method `name` of its own."""
        return getattr(cls, name) is not getattr(Part, name)
