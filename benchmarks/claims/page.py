"""The tables of claims and of arms on the pages, from what is cached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..cache import arrays, read
from ..scoring import shown, shown_ratio
from .claim import LABELS, METRICS, Claim, Comparison, Verdict, differences, verdict
from .registry import CLAIMS, WORLDS
from .tables import TABLES, Table

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("evaluation.md", "cupscale.md", "pixelsmith.md", "clearsr.md", "any-scale.md", "one-dial.md", "shallow-start.md")
MARK = re.compile(r"(<!-- (?P<kind>claims|table|count): (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
LEAST = 8  # scenes that a verdict needs

Cached = dict[str, dict]


def apart(cached: Cached, world: str, comparison: Comparison) -> np.ndarray:
    """The paired differences that are known."""
    results = cached.get(world, {}).get("results", {})
    better = arrays(results, comparison.better, comparison.scale, [comparison.metric])[comparison.metric]
    if isinstance(comparison.worse, float):
        worse = np.full(len(better), comparison.worse)
    else:
        worse = arrays(results, comparison.worse, comparison.scale, [comparison.metric])[comparison.metric]
    return differences(comparison, better, worse)


def finding(cached: Cached, world: str, claim: Claim) -> str:
    """Difference with its interval, n and verdict."""
    if world not in claim.worlds:
        return f"not applicable: {claim.absent[world]}" if world in claim.absent else "-"
    comparison = claim.measure(world)
    values = apart(cached, world, comparison)
    if len(values) < LEAST:
        return f"not measured (n = {len(values)})"
    metric = METRICS[comparison.metric]
    return f"**{verdict(comparison, values).value}**: {shown(values, metric.digits, '+')}, n = {len(values)}"


def claims(cached: Cached, method: str) -> Iterator[str]:
    rows = [claim for claim in CLAIMS if claim.method == method]
    worlds = [world for world in WORLDS if any(world in claim.worlds for claim in rows)]
    yield f"| claim | measured | {' | '.join(LABELS.get(world, world) for world in worlds)} |\n|---|---|{'---|' * len(worlds)}"
    for claim in rows:
        metric = METRICS[claim.measure(claim.worlds[0]).metric].label
        yield f"| {claim.text} ({claim.source}) | {metric} | {' | '.join(finding(cached, world, claim) for world in worlds)} |"


def count(cached: Cached, name: str) -> Iterator[str]:
    """How many claims have each verdict in any world, and those that are reversed."""
    found: dict[Verdict | None, list[str]] = {}
    for claim in CLAIMS:
        for world in claim.worlds:
            comparison = claim.measure(world)
            values = apart(cached, world, comparison)
            known = verdict(comparison, values) if len(values) >= LEAST else None
            found.setdefault(known, []).append(f"{claim.method}, {LABELS.get(world, world)}: {claim.text}")
    total = sum(map(len, found.values()))
    words = [f"{len(found.get(which, []))} {which.value}" for which in Verdict] + ([f"{len(found[None])} not measured yet"] if None in found else [])
    yield f"Of {total} results, counting a claim once in each world: {', '.join(words)}. Reversed here:\n"
    yield from (f"* {text}" for text in found.get(Verdict.REVERSED, []))


def table(cached: Cached, name: str) -> Iterator[str]:
    """A row an arm, on the images that all measured ones have."""
    shape: Table = TABLES[name]
    results = cached.get(shape.world, {}).get("results", {})
    found = {label: arrays(results, arm, shape.scale, shape.columns) for label, arm in shape.arms.items()}
    counts = [len(values[shape.columns[0]]) for values in found.values()]
    count = min((count for count in counts if count >= LEAST), default=0)
    yield f"| {count} scenes | {' | '.join(METRICS[column].label.removesuffix(', %') for column in shape.columns)} |\n|---|{'---|' * len(shape.columns)}"
    for label, values in found.items():
        yield f"| {label} | {' | '.join(cell(column, values[column][:count]) for column in shape.columns)} |"


def cell(column: str, values: np.ndarray) -> str:
    if len(values) < LEAST:
        return "-"
    if column == "rows":
        return f"{values.mean():.0f}"
    if METRICS[column].relative:
        return shown_ratio(values)
    return shown(values, METRICS[column].digits)


def page(text: str, cached: Cached) -> str:
    """`text` with the tables that its marks name."""
    def fill(match):
        lines = {"claims": claims, "table": table, "count": count}[match["kind"]](cached, match["name"])
        return match[1] + "\n".join(lines) + "\n" + match[match.re.groups]

    return MARK.sub(fill, text)


def write() -> None:
    for name in PAGES:
        path = DOCS / name
        path.write_text(page(path.read_text(encoding="utf-8"), read()), encoding="utf-8")
