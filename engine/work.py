"""How much work a run is, counted before it begins, in network rows: one image and one guidance branch in one network
evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

from ..methods.pixelsmith_plan import Sweep


class Work(NamedTuple):
    """`pictures` of height x width latent cells that the network sees in a run, for each guidance branch
    (unless not `guided`: with one of them only) and picture of a batch. `kept`: bytes that are held
    meanwhile."""

    name: str
    pictures: int
    height: int
    width: int
    kept: int = 0
    guided: bool = True


def evaluations(works: Sequence[Work], branches: int = 2, batch: int = 1) -> int:
    """Network rows: branches x batch x the sum of all pictures."""
    return batch * sum(_rows(work, branches) for work in works)


def cells(works: Sequence[Work], branches: int = 2, batch: int = 1) -> int:
    """Latent cells that the network sees, in all rows."""
    return batch * sum(_rows(work, branches) * work.height * work.width for work in works)


def _rows(work, branches):
    return work.pictures * (branches if work.guided else 1)


def pixelsmith_work(sweeps: Sequence[Sweep]) -> Work:
    """PixelSmith's patches, from the plan of its run."""
    patches = [patch for sweep in sweeps for patch in sweep.patches]
    return Work("patches", len(patches), patches[0].region.height, patches[0].region.width)
