from loupe.engine.work import Work, cells, evaluations, pixelsmith_work
from loupe.methods.pixelsmith_plan import plan

WORKS = [Work("regions", 30 * 49, 128, 128), Work("dilated views", 30 * 16, 128, 128), Work("small", 30, 64, 96, guided=False)]


def test_evaluations_are_all_pictures_of_all_branches():
    # the papers' count of LSRNA-DemoFusion at 4x: 30 steps of 49 + 16 views
    assert evaluations(WORKS[:2], branches=1) == 1950
    assert evaluations(WORKS, branches=2, batch=3) == 6 * 1950 + 3 * 30


def test_cells_weigh_the_pictures_by_their_size():
    assert cells(WORKS[2:], branches=2) == 30 * 64 * 96
    assert cells(WORKS, 1) / (128 * 128) == 1950 + 30 * 0.375


def test_pixelsmith_is_counted_from_its_plan():
    sweeps = plan(48, 64, 32, 5, 2, seed=1)
    work = pixelsmith_work(sweeps)
    assert work == ("patches", sum(len(sweep.patches) for sweep in sweeps), 32, 32, 0, True)
