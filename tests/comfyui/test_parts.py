"""A method is a Part: toy ones are registered beside the real ones, planned, run and removed, and the engine is not
told."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from loupe.engine import Edits, Part, Work, parts_of, with_parts, without_parts
from loupe.engine.estimate import works
from loupe.engine.views import SmallView
from loupe.engine.work import rows
from loupe.patches.demofusion import DilatedPass
from loupe.patches.regional_denoise import RegionalDenoise

LATENT = torch.zeros(1, 4, 16, 24)
SIGMAS = torch.tensor([4.0, 2.0, 1.0, 0.0])


@dataclass(frozen=True)
class SmallLook(Part):
    """Asks the network at another size, and moves every prediction to that mean."""

    title: ClassVar[str] = "Small Look"
    key: ClassVar[str] = "small_look"
    rank: ClassVar[int] = 15

    side: int = 8

    def works(self, model, canvas, sigma, inner):
        return [*inner, Work("small look", 1, self.side, self.side)]

    def evaluate(self, call, inner):
        small = SmallView(self.side, self.side, call.canvas.size)
        looks = call.predict_views([small.latent(call.x)], [small])
        return [own if not branch else own - own.mean() + look[0].mean() for branch, own, look in zip(call.conds, inner(call), looks)]


@dataclass(frozen=True)
class Brighter(Part):
    """Moves the state of every step."""

    title: ClassVar[str] = "Brighter"
    key: ClassVar[str] = "brighter"

    by: float = 0.5

    def edits(self, run):
        return Edits(finish=lambda x, sigma: x + self.by * len(run.schedule))

    def notices(self, run):
        yield f"brighter after {run.steps} steps"


@dataclass(frozen=True)
class GuidanceBand(Part):
    """Leaves the negative prompt out above a noise level."""

    title: ClassVar[str] = "Guidance Band"
    key: ClassVar[str] = "guidance_band"
    rank: ClassVar[int] = 5

    below: float

    def works(self, model, canvas, sigma, inner):
        return inner if sigma is None or sigma <= self.below else [work._replace(guided=False) for work in inner]

    def evaluate(self, call, inner):
        if call.sigma <= self.below:
            return inner(call)
        return inner(replace(call, conds=[branch if i == call.positive else None for i, branch in enumerate(call.conds)]))


@dataclass(frozen=True)
class Wider(Part):
    """Brings an object patch of its own, and refuses small latents."""

    title: ClassVar[str] = "Wider"
    key: ClassVar[str] = "wider"

    def attach(self, model):
        model = model.clone()
        model.add_object_patch("loupe_toy", 3)
        return model

    def check(self, model, canvas=None):
        if canvas is not None and canvas.width < 16:
            raise ValueError(f"The latent is {canvas.width} cells wide; wider needs 16.")


TOYS = {"asks": SmallLook(), "edits": Brighter(), "band": GuidanceBand(1.5), "object": Wider()}


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def seen_by_the_network(model):
    model, seen = model.clone(), []

    def watch(executor, x, *args, **kwargs):
        seen.append((*x.shape[-2:], len(x)))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return model, seen


def run(model):
    return tiny.sample(model, LATENT, sigmas=SIGMAS)


@pytest.mark.parametrize("beside", [(), (RegionalDenoise((8, 8)),), (RegionalDenoise((8, 8), jitter=True), DilatedPass((8, 12)))], ids=["alone", "regions", "DemoFusion"])
@pytest.mark.parametrize("name", TOYS)
def test_a_part_is_registered_planned_run_and_removed(name, beside, sdxl):
    base = with_parts(sdxl, *beside) if beside else sdxl
    model = with_parts(base, TOYS[name])
    assert parts_of(model) == {part.key: part for part in sorted((*beside, TOYS[name]), key=lambda part: part.rank)}
    watched, seen = seen_by_the_network(model)
    out, without = run(watched), run(base)
    assert out.isfinite().all()
    assert torch.equal(out, without) == (name == "object")
    if name != "band":
        assert rows(works(model, 16, 24, len(SIGMAS) - 1)) == sum(count for *_, count in seen)
    assert {(work.height, work.width) for work in works(model, 16, 24, 1)} == {tuple(size) for *size, _ in seen}
    removed = without_parts(model, TOYS[name].key)
    assert list(parts_of(removed)) == list(parts_of(base))
    assert torch.equal(run(removed), without)
    assert parts_of(without_parts(model)) == {}


def test_parts_commute(sdxl):
    parts = [*TOYS.values(), RegionalDenoise((8, 8))]
    forwards, backwards = with_parts(sdxl, *parts), sdxl
    for part in reversed(parts):
        backwards = with_parts(backwards, part)
    assert list(parts_of(forwards)) == list(parts_of(backwards))
    assert torch.equal(run(forwards), run(backwards))


def test_work_depends_on_the_noise_level(sdxl):
    from loupe.engine.evaluation import engine_of
    from loupe.engine.views import Canvas

    model = with_parts(sdxl, GuidanceBand(1.5), RegionalDenoise((8, 8)))
    watched, seen = seen_by_the_network(model)
    run(watched)
    engine, canvas = engine_of(model), Canvas.of(model.model, 16, 24)
    planned = [rows(engine.works(model.model, canvas, sigma)) for sigma in SIGMAS[:-1].tolist()]
    assert sum(planned) == sum(count for *_, count in seen)
    assert planned[0] == planned[-1] / 2
    assert rows(engine.works(model.model, canvas)) == max(planned)


def test_a_part_brings_its_object_patches_and_its_refusal(sdxl):
    model = with_parts(sdxl, Wider())
    assert model.object_patches["loupe_toy"] == 3 and "loupe_toy" not in sdxl.object_patches
    with pytest.raises(ValueError, match="8 cells wide"):
        tiny.sample(model, torch.zeros(1, 4, 8, 8), steps=1)


def test_a_part_says_what_happened(sdxl, caplog):
    run(with_parts(sdxl, Brighter()))
    assert ("loupe", "Loupe: brighter after 3 steps") in [(record.name, record.message) for record in caplog.records]


def test_a_copy_of_the_options_is_of_the_same_run(sdxl):
    """Other packs copy what a guider is given, deeply too."""
    copies = []

    def copied(args):
        copies.append(copy.deepcopy({key: value for key, value in args["model_options"].items() if key != "transformer_options"}))
        return args["denoised"]

    model = with_parts(sdxl, RegionalDenoise((8, 8)))
    expected = run(model)
    model = model.clone()
    model.set_model_sampler_post_cfg_function(copied)
    assert torch.equal(run(model), expected)
    assert len({id(options["loupe_run"]) for options in copies}) == 1
