"""docs/regions.md says what the tests prove."""

import re
from pathlib import Path

import families
import local
import pytest
import regions_table

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "regions.md"


@pytest.mark.parametrize(("name", "table"), [("table", regions_table.table), ("caches", regions_table.cache_table)])
def test_the_page_shows_the_table(name, table):
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown.group(1) == table()


def test_the_page_has_a_row_for_every_family():
    if not all(map(families.is_known, families.FAMILIES)):
        pytest.skip("this ComfyUI does not know all of them")
    test_the_page_shows_the_table("families", regions_table.family_table)


@pytest.mark.parametrize("cache", regions_table.CACHES)
def test_every_cache_names_a_test(cache):
    for cell in regions_table.CACHES[cache]:
        for name in regions_table.names(cell):
            file, _, test = name.partition("::")
            assert f"\ndef {test.partition('[')[0]}(" in (HERE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("row", regions_table.ROWS)
def test_every_cell_names_a_test_or_a_reason(row):
    for family in regions_table.COLUMNS:
        cell = regions_table.cell(row, family)
        for name in regions_table.names(cell):
            file, _, test = name.partition("::")
            if name.startswith(regions_table.LOCAL):
                assert (row, family) in local.CASES
            assert f"\ndef {test.partition('[')[0]}(" in (HERE / file).read_text(encoding="utf-8")
        assert regions_table.names(cell) or " " in cell
