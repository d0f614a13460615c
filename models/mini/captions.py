"""Captions of the mini world: what of a scene a crop shows, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .world import WORDS

COLUMNS = ["left", "center", "right"]
ROWS = ["top", "bottom"]


class Sight(NamedTuple):
    """A thing as a crop shows it: center and radii as fractions of the crop's width and height."""

    color: str
    shape: str
    x: float
    y: float
    wide: float
    high: float

    @property
    def words(self) -> str:
        return f"{self.color} {self.shape} {place(self.x, self.y)}"

    @property
    def share(self) -> float:
        """How much of the crop it covers, as a box."""
        return max(0.0, min(1, self.x + self.wide) - max(0, self.x - self.wide)) * max(0.0, min(1, self.y + self.high) - max(0, self.y - self.high))

    @property
    def is_named(self) -> bool:
        """Whether enough of it is in the crop: 30 % of the thing, or of the crop where it is the larger; 35 % of the crop always do."""
        return self.share > 0.3 * min(1, 4 * self.wide * self.high) or self.share > 0.35


def place(x: float, y: float) -> str:
    """The slot words for a point given as fractions of the image."""
    return f"{ROWS[int(y > 0.5)]} {COLUMNS[min(2, max(0, int(x * 3)))]}"


def caption_of(sights: Iterable[Sight], ground: str) -> str:
    """The things that are named, from left to right, and the ground."""
    named = sorted((sight for sight in sights if sight.is_named), key=lambda sight: sight.x)
    return ", ".join([sight.words for sight in named] + [f"on {ground}"])


SIGNS = [word for words in WORDS.values() for word in words] + [","]


def to_ids(caption: str) -> list[int]:
    """A caption as a language model writes it: numbers of words and commas."""
    return [SIGNS.index(sign) for sign in caption.replace(",", " ,").split()]


def from_ids(ids: Iterable[int]) -> str:
    return " ".join(SIGNS[i] for i in ids).replace(" ,", ",")
