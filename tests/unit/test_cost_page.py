"""docs/cost.md says what `bench frontier` has measured."""

from loupe.benchmarks.cache import read
from loupe.benchmarks.frontier_page import MARK, PAGE, PLOT, page, plot
from loupe.benchmarks.settings import CONFIRMED, all_settings


def test_the_page_and_the_plot_are_those_of_the_cache():
    text = PAGE.read_text(encoding="utf-8")
    assert len(list(MARK.finditer(text))) == text.count("<!-- frontier") >= 6
    assert page(text, read()) == text, "run: python dev.py bench frontier --page"
    assert plot(read()["text to image"]["results"], 2) == PLOT.read_text(encoding="utf-8")
    assert set(CONFIRMED) <= set(all_settings())
