"""Models that are told about the whole image otherwise than on the latent grid: PiD by a latent of fewer cells,
HiDream-O1 by the places of all tokens."""

import comfy.samplers
import families
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from loupe.engine.evaluation import parts_of, with_parts
from loupe.engine.views import Axis, Canvas, SmallView, View
from loupe.methods.regions import RegionLayout, merge
from loupe.patches.demofusion import DilatedPass
from loupe.patches.pixelsmith import sample as pixelsmith
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

LEVEL = 0.7
MULTIPLE = {"pid": 32, "pid_flux2": 64, "hidream_o1": 32}


@pytest.fixture(scope="module")
def models():
    """model(name), built once; tests patch clones."""
    built = {}

    def model(name) -> ModelPatcher:
        if not families.is_known(name):
            pytest.skip(f"this ComfyUI does not know {families.FAMILIES[name].config}")
        return built.get(name) or built.setdefault(name, families.build(name))

    return model


def regional(model, region, **settings):
    return with_parts(model, RegionalDenoise((region, region), **settings))


def evaluate(name, model, x, conds=None):
    return tiny.evaluate(model, x, conds or families.conditioning(name, model, x.shape), LEVEL)


@pytest.mark.parametrize("name", MULTIPLE)
@pytest.mark.parametrize("layout", [False, True])
def test_regions_are_multiples(name, layout, models):
    multiple, model = MULTIPLE[name], models(name)
    given = RegionLayout(12 * multiple, 12 * multiple, 8 * multiple + 9, 8 * multiple + 5, 4 * multiple + 1, 4 * multiple + 3) if layout else None
    settings = RegionalDenoise((8 * multiple + 9, 8 * multiple + 5), layout=given, jitter=True)
    found = settings.layout_of(Canvas.of(model.model, 12 * multiple, 12 * multiple))
    assert (found.region_height, found.region_width, found.patch, settings.jitter_of(found)) == (8 * multiple, 8 * multiple, multiple, multiple)
    for region in (*found.regions, *settings.draw(found, multiple, 1)):
        assert not any(number % multiple for number in region)


@pytest.mark.parametrize("name", MULTIPLE)
def test_regions_of_any_size_run(name, models):
    multiple, model = MULTIPLE[name], models(name)
    x = families.latent(name, model, 3 * multiple, 3 * multiple)
    layout = RegionLayout(3 * multiple, 3 * multiple, 2 * multiple + 9, 2 * multiple + 5, multiple + 1, multiple - 3)
    for settings in (RegionalDenoise((2 * multiple + 9, 2 * multiple + 5), jitter=True), RegionalDenoise(layout=layout)):
        assert all(branch.isfinite().all() for branch in evaluate(name, with_parts(model, settings), x))


def canvas_that_does_not_fit(model):
    """(latent, conditioning) of PiD."""
    conds = families.conditioning("pid", model, (1, 3, 128, 160))
    return families.latent("pid", model, 128, 176), conds


def test_a_canvas_that_the_low_resolution_latent_does_not_fit_is_refused(models):
    x, (positive, negative) = canvas_that_does_not_fit(models("pid"))
    with pytest.raises(ValueError, match="lq_latent of the conditioning has 5 x 4 cells for a canvas of 176 x 128.*Make the canvas 160 x 128"):
        tiny.sample(regional(models("pid"), 64), x, positive=positive, negative=negative)
    with pytest.raises(ValueError, match="lq_latent of the conditioning has 2 x 2 cells for a canvas of 256 x 256"):
        evaluate("pid", regional(models("pid"), 64), families.latent("pid", models("pid"), 256, 256), families.conditioning("pid", models("pid"), (1, 3, 64, 64)))


def test_one_region_is_never_refused(models):
    x, (positive, negative) = canvas_that_does_not_fit(models("pid"))
    told = {"attention_mask": torch.ones(1, 4, 4), "attention_mask_img_shape": (2, 2), "keyframe_idxs": torch.zeros(1, 3, 4)}
    unet, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    for model, x, keys in ((models("pid"), x, {"positive": positive, "negative": negative}), (unet, latent, {"positive": tiny.conditioning(1, **told)})):
        assert torch.equal(tiny.sample(regional(model, 256), x, steps=1, **keys), tiny.sample(model, x, steps=1, **keys))


def test_pixelsmith_names_what_it_cannot_cut(models):
    model = models("pid")
    guide = families.latent("pid", model, 128, 128)
    positive, negative = families.conditioning("pid", model, guide.shape)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    with pytest.raises(ValueError, match="lq_latent of the conditioning has a cell for every 32 x 32 of the canvas.*no multiples"):
        pixelsmith(model, positive, negative, guide, sigmas, 1, 1.0, seed=2, patch_size=48)


@pytest.mark.parametrize("name", MULTIPLE)
def test_dilated_views_are_told_the_whole_canvas(name, models):
    """Also where it has to be padded to whole cells for each."""
    model, multiple = models(name), MULTIPLE[name]
    x = families.latent(name, model, 4 * multiple, 3 * multiple)
    out = evaluate(name, with_parts(regional(model, 2 * multiple), DilatedPass((2 * multiple, 2 * multiple), 2)), x)
    assert all(branch.shape == x.shape and branch.isfinite().all() for branch in out)


def test_a_coarse_image_is_cut_like_the_canvas():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(View(Axis(64, 1, 32), Axis(32, 1, 64)).coarse(image, (32, 32)), image[..., 2:, 1:3])
    assert torch.equal(View(Axis(-32, 1, 64), Axis(0, 1, 32)).coarse(image, (32, 32)), image[..., [0, 0], :1])
    padded = torch.cat([image[..., :1, :], image], 2)
    small = padded.reshape(1, 1, 2, 2, 2, 2).mean((3, 5))
    assert torch.equal(View(Axis(-31, 2, 64), Axis(1, 2, 64)).coarse(image, (32, 32)), small)
    assert SmallView(32, 64, (96, 128)).coarse(image, (32, 32)).shape == (1, 1, 1, 2)
    with pytest.raises(ValueError, match="no multiples of 32 x 32"):
        View(Axis(16, 1, 32), Axis(0, 1, 32)).coarse(image, (32, 32))


def prompts_of(model, shape, region=None):
    """HiDream-O1's with an area, and with reference images, which are shown whole."""
    (positive,), (negative,) = families.conditioning("hidream_o1", model, shape, region)
    references = torch.rand((1, 64, 96, 3), generator=torch.Generator().manual_seed(3))
    return [[positive[0], {**positive[1], "reference_latents": [references]}]], [negative]


def test_references_are_shown_whole(models):
    model = models("hidream_o1")
    x = families.latent("hidream_o1", model, 64, 96)
    fused = evaluate("hidream_o1", regional(model, 64), x, prompts_of(model, x.shape))
    plain = evaluate("hidream_o1", regional(model, 64), x)
    layout = parts_of(regional(model, 64))["regions"].layout_of(Canvas.of(model.model, 64, 96))
    crops = [evaluate("hidream_o1", model, region.crop(x), prompts_of(model, x.shape)) for region in layout.regions]
    for out, parts in zip(fused, zip(*crops)):
        assert tiny.relative(out, merge(parts, layout.regions, 64, 96, layout.weights())) < 5e-6
    assert tiny.relative(fused[0], plain[0]) > 1e-4


def test_an_area_is_laid_out_in_its_region(models):
    """An area that is one of the regions is that region."""
    name, model = "hidream_o1", models("hidream_o1")
    x = families.latent(name, model, 64, 128)
    (positive,), negative = families.conditioning(name, model, x.shape)
    left = [[positive[0], {**positive[1], "area": (64, 64, 0, 0), "strength": 1.0}]]
    out = evaluate(name, regional(model, 64, overlap=0.0), x, (left, negative))[0]
    own = evaluate(name, model, x[..., :64], ([positive], negative))[0]
    assert tiny.relative(out[..., :40], own[..., :40]) < 5e-6


def test_the_tokens_are_laid_out_once(models, monkeypatch):
    model, calls = models("hidream_o1"), []
    real = model.model.extra_conds
    monkeypatch.setattr(model.model, "extra_conds", lambda **keys: calls.append(tuple(keys["noise"].shape[-2:])) or real(**keys))
    latent = families.latent("hidream_o1", model, 64, 128)
    positive, negative = families.conditioning("hidream_o1", model, latent.shape)
    tiny.sample(regional(model, 64, jitter=True), latent, steps=3, positive=positive, negative=negative)
    assert calls == [(64, 128)] * 2 + [(64, 64)] * 2
