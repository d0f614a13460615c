from loupe.engine.work import Work, cells, rows

WORKS = [Work("regions", 30 * 49, 128, 128), Work("dilated views", 16, 128, 128).times(30), Work("small", 30, 64, 96, guided=False)]


def test_rows_are_all_views_of_all_branches():
    # the papers' count of LSRNA-DemoFusion at 4x: 30 steps of 49 + 16 views
    assert rows(WORKS[:2], branches=1) == 1950
    assert rows(WORKS, branches=2, batch=3) == 6 * 1950 + 3 * 30


def test_cells_weigh_the_views_by_their_size():
    assert cells(WORKS[2:], branches=2) == 30 * 64 * 96
    assert cells(WORKS, 1) / (128 * 128) == 1950 + 30 * 0.375
