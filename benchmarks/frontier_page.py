"""The tables and the plot of docs/cost.md, from what `bench frontier` has measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .cache import Values, arrays, read
from .scoring import sharpness_ratio, shown, shown_ratio
from .settings import CONFIRMED, all_settings, confirmed

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PLOT = DOCS / "cost.md", DOCS / "cost.svg"
COLORS = {"regions": "#2563eb", "demofusion": "#dc2626", "pixelsmith": "#16a34a", "none": "#6b7280"}
MARK = re.compile(r"(<!-- frontier: (?P<kind>\w+), (?P<variant>[\w ]+), (?P<scale>\d)x(?:, (?P<center>\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)

COLUMNS = ("rows", "extra", "base", "truth", "sharp", "seam", "border")
LEAST = 8  # images that a comparison needs

Results = dict[str, Values]  # of one world, see `cache.name_of`


def absolute(results: Results, scale: int, settings: Mapping[str, object], most: int | None = None) -> Iterator[str]:
    """A row a setting, of its first `most` images."""
    yield "| setting | n | rows | extra things | fidelity, dB | truth, dB | sharpness | miss | seam | border |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, setting in settings.items():
        values = arrays(results, setting, scale, COLUMNS, most)
        if not len(values["rows"]):
            continue
        _, miss = sharpness_ratio(values["sharp"])
        cells = [shown(values["extra"]), shown(values["base"]), shown(values["truth"]), shown_ratio(values["sharp"]), f"{miss:.2f}", shown(values["seam"]), shown(values["border"])]
        yield f"| {name} | {len(values['rows'])} | {values['rows'].mean():.0f} | {' | '.join(cells)} |"


def differences(results: Results, scale: int, center: str) -> Iterator[str]:
    """A row a factor: paired differences to the setting `center`, on the images that both have."""
    yield "| to the center | n | rows | extra things | fidelity, dB | sharpness, % | seam | border |"
    yield "|---|---|---|---|---|---|---|---|"
    settings = all_settings()
    for name in (name for name in settings if name.startswith(f"{center}, ")):
        base, found = (arrays(results, settings[which], scale, COLUMNS) for which in (center, name))
        n = min(len(found["rows"]), len(base["rows"]))
        if n < LEAST:
            continue
        base, found = ({metric: values[:n] for metric, values in known.items()} for known in (base, found))
        apart = [shown(found[metric] - base[metric], sign="+") for metric in ("extra", "base", "seam", "border")]
        apart.insert(2, shown(100 * (found["sharp"] / base["sharp"] - 1), 1, "+"))
        yield f"| {name.removeprefix(f'{center}, ')} | {n} | {found['rows'].mean() / base['rows'].mean() - 1:+.0%} | {' | '.join(apart)} |"


def page(text: str, cached: dict[str, dict]) -> str:
    """`text` with the tables that its marks name, from what is `cached` of all worlds."""
    def table(match):
        results = cached[match["variant"]]["results"]
        scale = int(match["scale"])
        lines = absolute(results, scale, confirmed()) if match["kind"] == "confirmed" else differences(results, scale, match["center"])
        return match[1] + "\n".join(lines) + "\n" + match[match.re.groups]

    return MARK.sub(table, text)


def plot(results: Results, scale: int) -> str:
    """SVG: fidelity and sharpness against network rows, a point a setting, those of CONFIRMED filled and named."""
    panels = [panel(results, scale, metric, label, 460 * i) for i, (metric, label) in enumerate((("base", "fidelity, dB"), ("sharp", "sharpness, 1 is right")))]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 380" font-family="sans-serif" font-size="11"><rect width="920" height="380" fill="white"/>{"".join(panels)}</svg>\n'


def panel(results: Results, scale: int, metric: str, label: str, left: int) -> str:
    points = [(name, setting.method, values["rows"].mean(), sharpness_ratio(values[metric])[0] if metric == "sharp" else values[metric].mean())
              for name, setting in all_settings().items() if setting.method != "none" and len((values := arrays(results, setting, scale, COLUMNS))["rows"])]
    rows, values = np.array([point[2] for point in points]), np.array([point[3] for point in points])
    x = left + 50 + 380 * (np.log(rows) - np.log(rows.min())) / np.ptp(np.log(rows))
    y = 330 - 290 * (values - values.min()) / np.ptp(values)
    marks = []
    for (name, method, *_), px, py in zip(points, x, y):
        named = name in CONFIRMED
        marks.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{5 if named else 3}" fill="{COLORS[method]}" fill-opacity="{0.9 if named else 0.3}"><title>{name}</title></circle>')
        if named:
            anchor = "end" if px > left + 240 else "start"
            marks.append(f'<text x="{px + (-8 if anchor == "end" else 8):.1f}" y="{py + 4:.1f}" text-anchor="{anchor}">{name}</text>')
    ticks = [f'<text x="{left + 50 + 380 * at:.0f}" y="355" text-anchor="middle">{np.exp(np.log(rows.min()) + at * np.ptp(np.log(rows))):.0f}</text>' for at in (0, 0.5, 1)]
    ticks += [f'<text x="{left + 44}" y="{330 - 290 * at + 4:.0f}" text-anchor="end">{values.min() + at * np.ptp(values):.{2 if metric == "sharp" else 1}f}</text>' for at in (0, 0.5, 1)]
    frame = f'<path d="M{left + 50} 30V340H{left + 440}" fill="none" stroke="#9ca3af"/>'
    return f'{frame}<text x="{left + 50}" y="20">{label}</text><text x="{left + 240}" y="372" text-anchor="middle">network rows an image</text>{"".join(ticks)}{"".join(marks)}'


def write() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
    PLOT.write_text(plot(read()["text to image"]["results"], 2), encoding="utf-8")
