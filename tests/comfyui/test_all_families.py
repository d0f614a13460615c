"""Regional Denoise on a tiny network of every model that makes images."""

import comfy.samplers
import families
import loupe.engine.families
import pytest
import tiny
import torch
from loupe.engine.evaluation import parts_of, with_parts
from loupe.engine.families import FAMILIES, GENERIC, family_of
from loupe.engine.views import Canvas
from loupe.methods.regions import merge
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior

pytestmark = pytest.mark.numerics

LEVEL = 0.7
MOST_STEPS = 3
KNOWN = [pytest.param(name, marks=() if families.is_known(name) else pytest.mark.skip("of a later ComfyUI")) for name in families.FAMILIES]
every_family = pytest.mark.parametrize("name", KNOWN)


@pytest.fixture(scope="module")
def models():
    """model(name), built once; tests patch clones."""
    built = {}
    return lambda name: built.get(name) or built.setdefault(name, families.build(name))


def regional(name, model, **settings):
    size = families.FAMILIES[name].region
    return with_parts(model, RegionalDenoise((size, size), **settings))


def layout_of(model, height, width):
    return parts_of(model)["regions"].layout_of(Canvas.of(model.model, height, width))


def run(name, model, latent, steps):
    family, network = families.FAMILIES[name], model.model.diffusion_model
    if hasattr(network, "_kv_cache_entries"):  # HiDream-O1 keeps what it has made of a prompt from run to run
        network._kv_cache_entries = []
    positive, negative = families.conditioning(name, model, latent.shape)
    sigmas = comfy.samplers.KSampler(model, steps, torch.device("cpu"), family.sampler, family.scheduler).sigmas
    return tiny.sample(model, latent, family.sampler, cfg=family.cfg, sigmas=sigmas, positive=positive, negative=negative)


@every_family
def test_one_region_is_comfyui_s_own_to_the_bit(name, models):
    model, size = models(name), families.FAMILIES[name].region
    latent = families.latent(name, model, size, size, 2)
    steps = min(families.FAMILIES[name].steps, 2)
    assert torch.equal(run(name, regional(name, model, jitter=True), latent, steps), run(name, model, latent, steps))


@every_family
def test_regions_are_the_network_on_each_crop(name, models):
    """In one call and in several; what sees the whole is another image."""
    model, size = models(name), families.FAMILIES[name].region
    patched = {count: regional(name, model, regions_per_call=count) for count in (3, 1)}
    stride = layout_of(patched[1], size, 4 * size).stride_width
    x = families.latent(name, model, size, size + 2 * stride, 2)
    layout = layout_of(patched[1], *x.shape[-2:])
    assert layout.count == 3
    stack, singles, whole = (tiny.evaluate(one, x, families.conditioning(name, model, x.shape), LEVEL) for one in (patched[3], patched[1], model))
    crops = [tiny.evaluate(model, region.crop(x), families.conditioning(name, model, x.shape, region), LEVEL) for region in layout.regions]
    for together, single, image, parts in zip(stack, singles, whole, zip(*crops)):
        expected = merge(parts, layout.regions, *x.shape[-2:], layout.weights())
        assert tiny.relative(together, single) < 5e-6
        assert tiny.relative(together, expected) < 5e-6
        assert tiny.relative(together, image) > 1e-3


@every_family
def test_a_large_canvas_is_sampled_as_its_template_says(name, models):
    """In 4 x 4 regions that move, with both priors."""
    family, model = families.FAMILIES[name], models(name)
    size = family.region
    stride = layout_of(regional(name, model, overlap=0.25), size, 4 * size).stride_width
    latent = families.latent(name, model, size + 3 * stride, size + 3 * stride)
    reference = families.latent(name, model, size, size, seed=4)
    patched = with_parts(regional(name, model, overlap=0.25, jitter=True), StructurePrior(reference), LatentAdjustment(reference))
    assert layout_of(patched, *latent.shape[-2:]).count == 16
    out = run(name, patched, latent, min(family.steps, MOST_STEPS))
    assert out.shape == latent.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["zimage", "flux2"])
def test_a_model_that_nobody_has_recorded_is_shown_regions(name, models, monkeypatch):
    monkeypatch.setattr(loupe.engine.families, "_BY_CONFIG", {})
    assert family_of(models(name).model) == GENERIC
    test_regions_are_the_network_on_each_crop(name, models)


def test_every_record_of_images_has_a_tiny_network():
    """Those without make videos or objects, or are not of ComfyUI."""
    proven = {config for family in FAMILIES for config in family.configs} & {family.config for family in families.FAMILIES.values()}
    missing = [family.name for family in FAMILIES if not proven & set(family.configs)]
    assert missing == ["Mini World", "Mini World, arbitrary scale", "Mini World, flow", "Stable Video Diffusion", "SV3D", "Stable Zero123", "Stable Cascade B"]


@every_family
def test_every_tiny_network_is_that_of_its_record(name, models):
    assert families.FAMILIES[name].config in family_of(models(name).model).configs
