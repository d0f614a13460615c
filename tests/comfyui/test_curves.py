"""The page's curves: the weights that the papers' code applies, and what the nodes' own runs apply."""

import json
import re
from types import SimpleNamespace

import comfy.model_sampling
import pytest
import tiny
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from loupe.browser import curves
from loupe.browser.run_levels import run_levels
from loupe.engine import Run, progress, with_parts
from loupe.engine.sigmas import PAPER_SCHEDULE, noise_levels
from loupe.methods.pixelsmith import denoise
from loupe.methods.pixelsmith_plan import plan
from loupe.methods.schedules import cosine_factor
from loupe.methods.structure_prior import RUN_SCHEDULES, kappa
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.structure_prior import StructurePrior

STRUCTURE = {"weight": 0.2, "schedule": "cosine", "mode": "paper", "clamp": False, "compare": "enlarge reference"}
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
        ("plain", {}), ("clamped", {"clamp": True}), ("kappa", {"mode": "kappa"}), ("small", {"compare": "shrink prediction"}),
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
    assert shares == plot["curves"]["cells from the guide"]
    assert sum(plot["curves"]["phases from the guide"]) == 0.5 * (guided - 1)


@pytest.mark.parametrize("until, steps, strength, guided", [(0.6, 50, 1.0, 20), (0.4, 50, 1.0, 30), (0.4, 30, 0.6, 10), (1.0, 50, 1.0, 1), (0.0, 8, 1.0, 7)])
def test_pixelsmith_is_guided_down_to_a_level(until, steps, strength, guided):
    plot = curves.pixelsmith(until, steps, strength, 0, PAPER_SCHEDULE)
    assert plot["curves"]["cells from the guide"] == [0.5] * (guided - 1) + [0.0] * (steps - guided + 1)


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


# At the levels of a run

DISCRETE, FLOW = comfy.model_sampling.ModelSamplingDiscrete(), comfy.model_sampling.ModelSamplingDiscreteFlow()


def run_of(sampling, scheduler, steps, strength=1.0):
    """A run of a model with the noise levels `sampling`, and its levels as a plot takes them from the page."""
    run = Run(SimpleNamespace(model_sampling=sampling), noise_levels(sampling, scheduler, steps, strength))
    return run, run_levels(json.loads(json.dumps({"timesteps": run.timesteps, "table": run.levels.table})))


@pytest.mark.parametrize("sampling", [DISCRETE, FLOW], ids=["eps", "flow"])
@pytest.mark.parametrize("scheduler, steps", [(PAPER_SCHEDULE, 50), ("simple", 4), ("karras", 12)])
def test_a_plot_at_a_run_s_levels_has_what_each_step_takes(sampling, scheduler, steps):
    run, told = run_of(sampling, scheduler, steps)
    assert told.published == (sampling is DISCRETE and scheduler == PAPER_SCHEDULE)
    wanted = {
        "skip residual": (curves.demofusion(3.0, 1.0, 1.0, told), lambda t: cosine_factor(t) ** 3),
        "share of the deviation removed": (curves.structure_prior(**STRUCTURE, run=told), lambda t: kappa(0.2, t, run.levels.ratio_at(t), "cosine", "paper", False)),
    }
    for name, (plot, share) in wanted.items():
        assert plot["timesteps"] == run.timesteps[:-1]
        ends = name == "skip residual" and not run.published  # no step follows that would take it
        assert plot["curves"][name] == [0.0 if ends and step == steps - 1 else run.share(share, step) for step in range(steps)]
    plot = curves.demofusion(3.0, 1.0, 2.0, told)
    assert plot["curves"]["blur"] == [0.99 * cosine_factor(t) ** 2 + 0.01 for t in run.timesteps[:-1]]
    adjustment = {**ADJUSTMENT, "boundaries": "noise level"}
    assert curves.latent_adjustment(**adjustment, run=told)["curves"]["share of the reference"] == LatentAdjustment(None, 0.02, 0.03).shares(run.timesteps)


def test_a_few_steps_take_more_than_the_papers():
    _, told = run_of(FLOW, "simple", 4)
    few, many = (curves.structure_prior(**{**STRUCTURE, "mode": "kappa"}, run=levels)["curves"]["share of the deviation removed"] for levels in (told, None))
    assert max(few) > 2 * max(many)
    assert sum(curves.pixelsmith(0.6, 50, 1.0, 3, PAPER_SCHEDULE, told)["curves"]["cells from the guide"]) == 0.5 * 2


def test_schedules_over_a_run_are_drawn_over_its_steps():
    _, told = run_of(FLOW, "simple", 4)
    for schedule in RUN_SCHEDULES:
        weights = curves.structure_prior(**{**STRUCTURE, "schedule": schedule}, run=told)["curves"]["weight"]
        assert len(weights) == 4 and weights[0] == pytest.approx(0.2) and weights == sorted(weights, reverse=True)
        assert len(curves.structure_prior(**{**STRUCTURE, "schedule": schedule})["curves"]["weight"]) == len(curves.TIMESTEPS)


def test_a_sampler_s_plot_is_at_the_levels_of_its_run():
    _, told = run_of(FLOW, "simple", 4)
    assert curves.demofusion_sampler(30, 0.6, PAPER_SCHEDULE, 3.0, 1.0, 1.0, told) == curves.demofusion(3.0, 1.0, 1.0, told)


@pytest.mark.parametrize("told, reason", [
    ([], "run is []"),
    ({}, "timesteps is None; expected a list of 2 to"),
    ({"timesteps": [900]}, "expected a list of 2 to"),
    ({"timesteps": [900] * 5000}, "expected a list of 2 to"),
    ({"timesteps": [900, "x"]}, "timesteps is 'x'; expected float"),
    ({"timesteps": [900, True]}, "timesteps is True; expected float"),
    ({"timesteps": [900, float("nan")]}, "timesteps is nan"),
    ({"timesteps": [1e9, 0]}, "expected 0 to 999"),
    ({"timesteps": [900, 0], "table": [0.1, float("inf")]}, "table holds infinity"),
    ({"timesteps": [900, 0], "table": [0.0, 1.0]}, "table does not rise"),
    ({"timesteps": [900, 0], "table": [2.0, 1.0]}, "table does not rise"),
    ({"timesteps": [900, 0], "table": 7}, "table is 7; expected a list"),
])
def test_what_are_no_levels_is_refused(told, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        run_levels(told)


class Server:
    client_id = "page"

    def __init__(self):
        self.sent = []

    def send_sync(self, event, data, client):
        self.sent.append((event, data, client))

    def send_progress_text(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Stands for the server whose page has started `PROMPT`."""
    server = Server()
    state = SimpleNamespace(handlers={"webui": SimpleNamespace(server_instance=server)}, dynprompt=DynamicPrompt(PROMPT))
    monkeypatch.setattr(progress, "get_progress_state", lambda: state)
    return server


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


PROMPT = {
    "5:2": node("LoupeStructurePrior", weight=0.3),
    "5:3": node("LoupeStructurePrior", model=["5:2", 0], weight=0.2),
    "8": node("LoupeLatentAdjustment", model=["5:3", 0]),
    "9": node("KSampler", model=["8", 0], latent_image=["1", 0]),
    "7": node("KSampler", model=["6", 0]),
    "6": node("LoupeStructurePrior", weight=0.2),
}


@pytest.mark.parametrize("maker, sampler, place", [
    ("5:3", "9", ["5:3"]),
    ("5:2", "9", ["5:2"]),
    ("99", "9", ["5:3"]),
    ("5:3", "7", ["6"]),
    ("5:3", "8", ["5:3"]),
    ("5:3", "none", []),
])
def test_what_was_made_under_another_id_is_found_upstream(maker, sampler, place):
    assert progress.places([progress.Maker(maker, "LoupeStructurePrior")], DynamicPrompt(PROMPT), sampler) == place


def sampled_by_nodes():
    """Both Structure Priors, of which the later stays, and the Latent Adjustment; node 9 samples three steps."""
    model = tiny.sdxl()
    with CurrentNodeContext("prompt", "5:2"):
        model = with_parts(model, StructurePrior(tiny.noise((1, 4, 8, 8)), 0.3))
    with CurrentNodeContext("prompt", "5:3"):
        model = with_parts(model, StructurePrior(tiny.noise((1, 4, 8, 8)), 0.2))
    with CurrentNodeContext("prompt", "8"):
        model = with_parts(model, LatentAdjustment(tiny.noise((1, 4, 8, 8))))
    with CurrentNodeContext("prompt", "9"):
        tiny.sample(model, tiny.noise((1, 4, 16, 16)), steps=3)


def test_a_run_is_told_once_with_the_nodes_that_have_a_part_in_it(server):
    sampled_by_nodes()
    ((data, client),) = [(data, client) for event, data, client in server.sent if event == "loupe.run"]
    assert (data["prompt_id"], data["nodes"], client) == ("prompt", ["5:3", "8"], "page")
    assert (data["pixels_per_cell"], data["native"]) == (8, 1024)
    told = run_levels(json.loads(json.dumps(data)))
    assert len(told.timesteps) == 4 and told.model.table == tuple(tiny.sdxl().model.model_sampling.sigmas.tolist())


def test_no_run_is_told_where_there_is_no_page(server):
    server.client_id = None
    sampled_by_nodes()
    assert server.sent == []
