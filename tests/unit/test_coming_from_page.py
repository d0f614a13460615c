"""docs/coming-from.md says what `bench peers` has measured."""

from loupe.benchmarks.cache import read
from loupe.benchmarks.peers_page import MARK, PAGE, RESULTS, page


def test_the_page_is_that_of_the_cache():
    text = PAGE.read_text(encoding="utf-8")
    assert len(list(MARK.finditer(text))) == text.count("<!-- peers") >= 3
    assert page(text, read(RESULTS)) == text, "run: python dev.py bench peers --page"
