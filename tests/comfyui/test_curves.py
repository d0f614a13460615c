"""The page's curves: the weights that the papers' code applies, and what the nodes' own runs apply."""

import pytest
import torch
from loupe.browser import curves
from loupe.engine.sigmas import PAPER_SCHEDULE
from loupe.methods.pixelsmith import denoise
from loupe.methods.pixelsmith_plan import plan

STRUCTURE = {"weight": 0.2, "schedule": "cosine", "strength": "paper", "clamp": False, "compare": "enlarge reference"}
ADJUSTMENT = {"preset": "custom", "alpha": 0.02, "beta": 0.03, "early_end": 0.2, "late_start": 0.8, "boundaries": "noise level", "target": "sample"}


def at(plot, name, timesteps):
    values = dict(zip(plot["timesteps"], plot["curves"][name]))
    return [values[t] for t in timesteps]


def test_demofusion_weights_are_the_published_ones(golden):
    rows = golden("df_views_cosine")[1]["cosine"]["50"]
    timesteps = [row["t"] for row in rows]
    for plot in (curves.demofusion(3.0, 1.0, 1.0), curves.demofusion_sampler(50, 1.0, PAPER_SCHEDULE, 3.0, 1.0, 1.0)):
        for name, key in (("skip residual", "c1_scale3"), ("dilated pass", "c2_scale1"), ("blur", "c3_scale1")):
            assert at(plot, name, timesteps) == pytest.approx([row[key] for row in rows], rel=1e-4, abs=1e-6)


def test_a_lower_strength_shows_the_last_steps():
    last = curves.demofusion_sampler(30, 0.6, PAPER_SCHEDULE, 3.0, 1.0, 1.0)
    assert last["timesteps"] == [float(t) for t in range(581, 0, -20)]
    whole = curves.demofusion_sampler(50, 1.0, PAPER_SCHEDULE, 3.0, 1.0, 1.0)
    assert last["curves"]["blur"] == whole["curves"]["blur"][20:]


def test_other_grids_of_demofusion_start_where_the_reference_lets_go():
    plot = curves.demofusion_sampler(8, 1.0, "simple", 3.0, 1.0, 1.0)
    assert plot["timesteps"][0] == pytest.approx(744, abs=1) and len(plot["timesteps"]) == 8


def test_structure_prior_removes_the_published_share(golden):
    _, described = golden("cupscale_schedules")
    for schedule, wanted in described["kappa_gamma0p2_sum_loss_eps_pred"].items():
        if schedule in ("cosine", "linear"):
            shares = at(curves.structure_prior(**{**STRUCTURE, "schedule": schedule}), "share of the deviation removed", described["sdxl_leading50_last22_timesteps"])
            assert shares == pytest.approx(wanted, rel=1e-3)


def test_structure_prior_widgets_show():
    shares = {name: curves.structure_prior(**{**STRUCTURE, **changed})["curves"]["share of the deviation removed"] for name, changed in (
        ("plain", {}), ("clamped", {"clamp": True}), ("kappa", {"strength": "kappa"}), ("small", {"compare": "shrink prediction"}),
    )}
    assert shares["clamped"] == [min(share, 1.0) for share in shares["plain"]]
    assert shares["kappa"] == curves.structure_prior(**STRUCTURE)["curves"]["weight"]
    assert shares["small"] == pytest.approx([share / 4 for share in shares["plain"]])


@pytest.mark.parametrize("guided", [1, 2, 4, 6])
def test_pixelsmith_follows_the_guidance_where_the_curve_says(guided):
    """In a run whose network returns zeros, a step that overwrites leaves the noised guidance in half of the cells."""
    steps, size = 6, 8
    plot = curves.pixelsmith(0.6, steps, 1.0, guided, PAPER_SCHEDULE)
    sigmas = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]
    guidance, noise = torch.full((1, 1, size, size), 7.0), torch.ones(1, 1, size, size)
    shares = []

    def swept(step, x, denoised):
        shares.append(float(x.isclose(guidance + sigmas[step + 1] * noise).float().mean()))

    denoise(lambda images, regions, step: [torch.zeros_like(image) for image in images], guidance, noise, sigmas, plan(size, size, size, steps, guided, 0), guided, callback=swept)
    assert shares == plot["curves"]["cells from the guidance"]
    assert sum(plot["curves"]["phases from the guidance"]) == 0.5 * (guided - 1)


@pytest.mark.parametrize("until, steps, strength, guided", [(0.6, 50, 1.0, 20), (0.4, 50, 1.0, 30), (0.4, 30, 0.6, 10), (1.0, 50, 1.0, 1), (0.0, 8, 1.0, 7)])
def test_pixelsmith_is_guided_down_to_a_level(until, steps, strength, guided):
    plot = curves.pixelsmith(until, steps, strength, 0, PAPER_SCHEDULE)
    assert plot["curves"]["cells from the guidance"] == [0.5] * (guided - 1) + [0.0] * (steps - guided + 1)


def test_latent_adjustment_pulls_early_and_pushes_late():
    plot = curves.latent_adjustment(**ADJUSTMENT)
    assert plot["curves"]["share of the reference"] == [0.02] * 10 + [0.0] * 30 + [-0.03] * 10
    assert curves.latent_adjustment(**{**ADJUSTMENT, "preset": "ClearSR"})["curves"]["share of the reference"] == [0.01] * 10 + [0.0] * 30 + [-0.01] * 10
    with pytest.raises(ValueError, match="alpha is 0.2"):
        curves.latent_adjustment(**{**ADJUSTMENT, "alpha": 0.2})


def test_panels_are_of_nodes():
    from loupe.browser.panels import panels, plots
    from loupe.nodes import NODES

    assert panels().keys() <= {node.define_schema().node_id for node in NODES}
    assert plots().keys() == {node_id for node_id, panel in panels().items() if panel["kind"] == "schedule plot"}
