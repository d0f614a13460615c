from loupe.benchmarks.mini_files import MARK, PAGE, page


def test_the_page_names_the_files_that_are_bundled():
    text = PAGE.read_text(encoding="utf-8")
    assert MARK.search(text) and page(text) == text, "run: python dev.py bench mini-world --files"


def test_all_weights_take_less_than_60_megabytes():
    total = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| all |"))
    assert float(total.split("|")[2]) < 60
