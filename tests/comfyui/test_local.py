"""Regions equal the whole, away from their borders, for every kind of conditioning on every model family,
and would not if the conditioning were left uncut."""

import comfy.supported_models
import local
import loupe.engine.conditioning as conditioning
import pytest
import tiny
import torch
import torch.nn.functional as F
from loupe.engine.controls import HintPatches
from loupe.engine.evaluation import with_parts
from loupe.engine.views import Canvas
from loupe.methods.regions import merge
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

SETTINGS = RegionalDenoise((local.REGION, local.REGION), sizes="unchanged")


def interior(layout, reach):
    """Cells that no region sees closer than `reach` to a border inside the canvas."""
    out = torch.ones(layout.height, layout.width, dtype=torch.bool)
    for region in layout.regions:
        clean = torch.zeros(region.height, region.width, dtype=torch.bool)
        top, left = (reach if start else 0 for start in region[:2])
        bottom, right = (reach if start + size < length else 0 for start, size, length in zip(region[:2], region[2:], local.CANVAS))
        clean[top : region.height - bottom, left : region.width - right] = True
        region.crop(out).logical_and_(clean)
    assert out.float().mean() > 0.1
    return out


INSIDE = interior(SETTINGS.layout_of(Canvas(*local.CANVAS)), local.REACH)


def predictions(kind, family, regional=None, images=2):
    """Denoised inside, per guidance branch; `regional` None for ComfyUI's own evaluation."""
    model = local.build(family, local.CONCATENATED[family] if kind == "inpainting latents" else 0)
    conds = local.KINDS[kind](family, model)
    if regional is not None:
        model = with_parts(model, regional)
    x = local.latents(family, images, 9)
    return [branch[..., INSIDE] for branch in tiny.evaluate(model, x, conds, sigma=0.7)]


def close(a, b):
    return all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def whole():
    """Untiled predictions, each computed once."""
    found = {}

    def get(kind, family, images=2):
        key = kind, family, images
        if key not in found:
            found[key] = predictions(kind, family, None, images)
        return found[key]

    return get


@pytest.mark.parametrize(("kind", "family"), local.CASES)
def test_regions_equal_the_whole(kind, family, whole):
    expected = whole(kind, family)
    assert close(predictions(kind, family, SETTINGS), expected)
    assert not close([expected[0]], [expected[1]])


@pytest.mark.parametrize("kind", ["one prompt per image", "masks", "areas", "chained ControlNets", "ControlNet through a VAE", "T2I adapter"])
def test_one_image_equals_the_whole(kind, whole):
    assert close(predictions(kind, "sd15", SETTINGS, images=1), whole(kind, "sd15", 1))


def squeezed(tensor, crop):
    size = crop.views[0].y.count, crop.views[0].x.count
    planes = conditioning._rows(tensor, crop).reshape(-1, 1, *tensor.shape[-2:])
    small = F.interpolate(planes, size).reshape(len(crop.x), *tensor.shape[1:-2], *size)
    return torch.cat([small] * len(crop.views))


LEFT_OUT = {
    "one prompt per image": ("_rows", lambda value, crop: value),
    "masks": ("_latents", squeezed),
    "mask bounds": ("_latents", squeezed),
    "areas": ("_area", lambda cond, view: cond.get("area")),
    "percentage areas": ("area_weights", lambda area, x: torch.ones(1, *x.shape[2:])),
    "inpainting latents": ("_latents", squeezed),
    "ControlNet": ("cut_control", lambda control, crop: control),
    "chained ControlNets": ("cut_control", lambda control, crop: control),
    "ControlNet through a VAE": ("cut_control", lambda control, crop: control),
    "T2I adapter": ("cut_control", lambda control, crop: control),
    "GLIGEN boxes": ("_boxes", lambda cond, view: tuple(cond["gligen"][2]) if "gligen" in cond else None),
    "reference latents": ("_tensor", lambda value, crop: value),
    "default prompt": ("_latents", squeezed),
    "several of these": ("_latents", squeezed),
    "DiffSynth and Fun patches": ("options", lambda patch, options, call, views: options),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_left_uncut_they_would_differ(kind, whole, monkeypatch):
    family = next(family for case, family in local.CASES if case == kind)
    expected = whole(kind, family)
    name, uncut = LEFT_OUT[kind]
    monkeypatch.setattr(HintPatches if name == "options" else conditioning, name, uncut)
    try:
        out = predictions(kind, family, SETTINGS)
    except (RuntimeError, IndexError, AssertionError):
        return  # ComfyUI notices
    assert not close([out[0]], [expected[0]])


@pytest.mark.parametrize("family", local.FAMILIES)
def test_prompts_of_regions_are_seen_by_their_regions(family):
    model = local.build(family)
    layout = SETTINGS.layout_of(Canvas(*local.CANVAS))
    x = local.latents(family, 2, 9)
    own = [tiny.conditioning(10 + i) for i in range(len(layout.regions))]
    positive = tiny.conditioning(1)
    for (prompt,), region in zip(own, layout.regions):
        positive.append([prompt[0], {**prompt[1], conditioning.REGION: region, "mask": torch.zeros(1, *local.CANVAS)}])
    out = tiny.evaluate(with_parts(model, SETTINGS), x, (positive, tiny.conditioning(2)), 0.7)
    size = {"width": local.CANVAS[1] * 8, "height": local.CANVAS[0] * 8}
    parts = [tiny.evaluate(model, region.crop(x), ([[text, {**keys, **size}]], tiny.conditioning(2, **size)), 0.7) for ((text, keys),), region in zip(own, layout.regions)]
    for branch, predictions in zip(out, zip(*parts)):
        torch.testing.assert_close(branch, merge(predictions, layout.regions, *local.CANVAS, layout.weights()), rtol=1e-4, atol=1e-4)


def told(model, sizes):
    """What reaches the network of a 16 x 24 canvas in two regions, of conds by name."""
    model, found = with_parts(model, RegionalDenoise((16, 16), sizes=sizes)), {}

    def watch(executor, *args, **kwargs):
        found.update(kwargs)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "watch", watch)
    tiny.evaluate(model, tiny.noise((1, 4, 16, 24)), (tiny.conditioning(1), tiny.conditioning(2)))
    return found


def test_pixart_is_told_the_region_or_the_canvas():
    out = told(local.build("pixart"), "native")
    assert out["c_size"].tolist() == [[128, 128]] * 4
    assert out["c_ar"].tolist() == [[1]] * 4
    for sizes in ("canvas", "unchanged"):
        assert told(local.build("pixart"), sizes)["c_size"].tolist() == [[128, 192]] * 4


def test_hunyuan_dit_is_told_the_region_or_the_canvas(monkeypatch):
    monkeypatch.setitem(local.FAMILIES, "hydit", comfy.supported_models.HunyuanDiT)
    assert told(local.build("hydit"), "native")["image_meta_size"].tolist() == [[128, 128, 128, 128, 0, 0]] * 4
    for sizes in ("canvas", "unchanged"):
        assert told(local.build("hydit"), sizes)["image_meta_size"].tolist()[0][:2] == [128, 192]


def test_the_sdxl_refiner_is_told_the_region_or_the_canvas(monkeypatch):
    monkeypatch.setitem(local.FAMILIES, "refiner", comfy.supported_models.SDXLRefiner)
    model = local.build("refiner")
    model.model.embedder = tiny.PlainNumbers()

    def numbers(sizes):
        return told(model, sizes)["y"][:, -5 * 256 :].unflatten(1, (5, 256))[..., 0].tolist()

    # the last is the aesthetic score, of the negative and the positive prompt
    assert numbers("native") == [[128, 128, 0, 0, 2.5]] * 2 + [[128, 128, 0, 0, 6]] * 2
    assert numbers("canvas") == [[128, 192, 0, 0, 2.5], [128, 192, 0, 64, 2.5], [128, 192, 0, 0, 6], [128, 192, 0, 64, 6]]
    assert numbers("unchanged") == [[128, 192, 0, 0, 2.5]] * 2 + [[128, 192, 0, 0, 6]] * 2
