"""The tables of docs/coming-from.md, from what `bench peers` has measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .cache import PATH, Values, arrays, read
from .peer_list import REFERENCE, families, ways
from .scoring import interval, sharpness_ratio, shown, shown_ratio

RESULTS = PATH.parent / "peers.json"
PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
MARK = re.compile(r"(<!-- peers: (?P<kind>[\w ]+), (?P<variant>[\w ]+), (?P<scale>\d)x -->\n).*?(<!-- end -->)", re.DOTALL)

COLUMNS = ("area", "seconds", "extra", "base", "truth", "sharp", "seam", "border")
DIFFERENCES = ("extra", "base", "truth", "miss", "seam", "border")
LEAST = 8  # images that a way needs
SLACK = 1.05  # processor times of the same work differ by so much
SAME = 0.8  # share of the longest time from which on settings of a family count as equally long

Results = dict[str, Values]  # of one world, see `cache.name_of`


def absolute(results: Results, variant: str, scale: int) -> Iterator[str]:
    """A row a way with enough images."""
    yield "| way | n | rows | seconds | extra things | fidelity, dB | truth, dB | sharpness | seam | border |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, way in ways(variant).items():
        values = arrays(results, way, scale, COLUMNS)
        if len(values["area"]) < LEAST:
            continue
        cells = [shown(values[metric]) for metric in ("extra", "base", "truth", "seam", "border")]
        cells.insert(3, shown_ratio(values["sharp"]))
        yield f"| {name} | {len(values['area'])} | {values['area'].mean():.0f} | {values['seconds'].mean():.1f} | {' | '.join(cells)} |"


class Pair:
    """Of a way and the reference, on the images that both have."""

    def __init__(self, results: Results, variant: str, scale: int, name: str):
        found, base = (arrays(results, ways(variant)[which], scale, COLUMNS) for which in (name, REFERENCE))
        self.name, self.n = name, min(len(found["area"]), len(base["area"]))
        self.found, self.base = ({metric: values[: self.n] for metric, values in known.items()} for known in (found, base))
        for values in (self.found, self.base):
            values["miss"] = np.abs(np.log2(values["sharp"]))

    @property
    def time(self) -> float:
        """The way's seconds over the reference's."""
        return float(np.exp(np.log(self.found["seconds"] / self.base["seconds"]).mean()))

    def row(self) -> str:
        apart = [starred(self.found[metric] - self.base[metric]) for metric in DIFFERENCES]
        apart.insert(3, f"{sharpness_ratio(self.found['sharp'])[0]:.2f}")
        return f"| {self.name} | {self.n} | {self.time:.2f} | {self.found['area'].mean():.0f} | {' | '.join(apart)} |"


def starred(values: np.ndarray, digits: int = 2) -> str:
    low, high = interval(values)
    return shown(values, digits, "+") + (" *" if low > 0 or high < 0 else "")


def pairs(results: Results, variant: str, scale: int) -> dict[str, list[Pair]]:
    """By family, those with enough images."""
    found = {family: [Pair(results, variant, scale, name) for name in members] for family, members in families(variant).items()}
    return {family: [pair for pair in members if pair.n >= LEAST] for family, members in found.items()}


def within_the_time(members: list[Pair]) -> Pair | None:
    """The setting of a family that takes the reference's time or next less; of several, the one that starts as the reference."""
    within = [pair for pair in members if pair.time <= SLACK]
    if not within:
        return None
    longest = max(pair.time for pair in within)
    near = [pair for pair in within if pair.time >= SAME * longest]
    return next((pair for pair in near if " .35" in pair.name), near[0])


def equal_time(results: Results, variant: str, scale: int) -> Iterator[str]:
    """A row a family: paired differences to REFERENCE."""
    yield "| way | n | time, × | rows | extra things | fidelity, dB | truth, dB | sharpness | miss | seam | border |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    base = Pair(results, variant, scale, REFERENCE)
    values = [f"{base.base[metric].mean():.2f}" for metric in DIFFERENCES]
    values.insert(3, f"{sharpness_ratio(base.base['sharp'])[0]:.2f}")
    yield f"| *{REFERENCE}* | {base.n} | 1 | {base.base['area'].mean():.0f} | {' | '.join(f'*{value}*' for value in values)} |"
    for members in pairs(results, variant, scale).values():
        if (pair := within_the_time(members)) and pair.name != REFERENCE:
            yield pair.row()


def longer(results: Results, variant: str, scale: int) -> Iterator[str]:
    """A row a way that takes longer than REFERENCE: paired differences to it."""
    yield from list(equal_time(results, variant, scale))[:3]
    for members in pairs(results, variant, scale).values():
        yield from (pair.row() for pair in members if pair.time > SLACK)


TABLES = {"equal time": equal_time, "longer": longer, "all": absolute}


def page(text: str, cached: dict[str, dict]) -> str:
    """`text` with the tables that its marks name, from what is `cached` of all worlds."""
    def table(match):
        lines = TABLES[match["kind"]](cached[f"peers, {match['variant']}"]["results"], match["variant"], int(match["scale"]))
        return match[1] + "\n".join(lines) + "\n" + match[match.re.groups]

    return MARK.sub(table, text)


def write() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read(RESULTS)), encoding="utf-8")
