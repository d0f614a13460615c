"""All claims, and the arms that they need in a world."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ..decoding import Decoding, Drawing
from ..labs import MOST, Enlarging, Lab
from ..restoring import Restoring
from . import regional, trained
from .claim import Claim, Comparison

CLAIMS = [*regional.CLAIMS, *trained.CLAIMS]
WORLDS = list(dict.fromkeys(world for claim in CLAIMS for world in claim.worlds))


@cache
def lab_of(world: str, scale: int) -> Lab:
    if world in Enlarging.WEIGHTS:
        return Enlarging(world, scale)
    return {"restoring": Restoring, "decoding": Decoding, "drawing": Drawing}[world](scale, MOST)


def comparisons(world: str) -> Iterator[tuple[Claim, Comparison]]:
    return ((claim, claim.measure(world)) for claim in CLAIMS if world in claim.worlds)


def arms(world: str) -> dict[int, list[object]]:
    """By scale, each once, in the order of the claims."""
    found: dict[int, list[object]] = {}
    for _, comparison in comparisons(world):
        for arm in (comparison.better, comparison.worse):
            known = found.setdefault(comparison.scale, [])
            if not isinstance(arm, float) and arm not in known:
                known.append(arm)
    return found
