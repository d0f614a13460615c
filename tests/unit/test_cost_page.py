"""docs/cost.md says what `bench frontier` has measured."""

import json

from loupe.benchmarks.frontier_page import MARK, PAGE, PLOT, page, plot
from loupe.benchmarks.settings import CONFIRMED, all_settings


def cached():
    return json.loads((PAGE.parents[1] / "benchmarks" / "cache" / "frontier.json").read_text(encoding="utf-8"))


def test_the_page_and_the_plot_are_those_of_the_cache():
    text = PAGE.read_text(encoding="utf-8")
    assert len(list(MARK.finditer(text))) == text.count("<!-- frontier") >= 6
    assert page(text, cached()) == text, "run: python dev.py bench frontier --page"
    assert plot(cached()["text to image"]["results"], 2) == PLOT.read_text(encoding="utf-8")


def test_what_is_cached_was_measured_with_the_settings_of_today():
    known = all_settings()
    for variant in cached().values():
        for name, found in variant["results"].items():
            setting = known.get(name.rsplit(" @", 1)[0])
            assert setting is None or repr(setting) == found["setting"], name
            assert len({len(values) for key, values in found.items() if key != "setting"}) == 1, name
    assert set(CONFIRMED) <= set(known)
