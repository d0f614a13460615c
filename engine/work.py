"""How much work an evaluation or a run is, in network rows: one image and one guidance branch in one network
evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

from ..methods.regions import RegionLayout


class Work(NamedTuple):
    """`views` of height x width latent cells that the network sees, for each guidance branch (unless not `guided`:
    with one of them only) and image of a batch. `kept`: bytes that are held meanwhile, for one image. `layout`: of
    views that are regions."""

    name: str
    views: int
    height: int
    width: int
    kept: int = 0
    guided: bool = True
    layout: RegionLayout | None = None

    def times(self, evaluations: int) -> "Work":
        """Of so many evaluations."""
        return self._replace(views=self.views * evaluations)


def rows(works: Sequence[Work], branches: int = 2, batch: int = 1) -> int:
    """Network rows: branches x batch x the sum of all views."""
    return batch * sum(_rows(work, branches) for work in works)


def cells(works: Sequence[Work], branches: int = 2, batch: int = 1) -> int:
    """Latent cells that the network sees, in all rows."""
    return batch * sum(_rows(work, branches) * work.height * work.width for work in works)


def _rows(work, branches):
    return work.views * (branches if work.guided else 1)


def in_parts(works: Sequence[Work], size: tuple[int, int]) -> bool:
    """Whether the network sees something else than all `size` (height, width) cells of the latent at once."""
    return any(work.views > 1 or (work.height, work.width) != size for work in works)
