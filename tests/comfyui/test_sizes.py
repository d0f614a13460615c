"""Sizes in pixels on models of 8, 16 and 1 pixels a latent cell, with tokens of one or of several cells."""

import inspect
import re

import pytest
import tiny
from loupe.engine.estimate import layout
from loupe.engine.sizes import Grid
from loupe.methods.regions import RegionLayout
from loupe.nodes import demofusion, pixelsmith
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.pixelsmith import PixelSmithSampler, patch_cells
from loupe.nodes.region_layout import RegionLayoutNode
from loupe.nodes.regional_denoise import RegionalDenoiseNode
from widgets import defaults

import nodes

MODELS = {"sdxl": (tiny.sdxl, 8), "flux": (tiny.flux, 8), "flux2": (tiny.flux2, 16), "radiance": (tiny.radiance, 1)}
GRIDS = {"sdxl": Grid(8, 1, 1024), "flux": Grid(8, 2, 1024), "flux2": Grid(16, 1, 1024), "radiance": Grid(1, 16, 1024)}


def run(node, **values):
    return node.execute(**defaults(node, **values))


def latent(model, height, width):
    """Of an image of `height` x `width` pixels."""
    grid = Grid.of(model.model)
    return {"samples": tiny.noise((1, model.model.latent_format.latent_channels, height // grid.pixels_per_cell, width // grid.pixels_per_cell))}


def pixels_of(regions, cell):
    return regions.region_height * cell, regions.region_width * cell


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return MODELS[name][0]()


def test_a_model_says_what_sides_are(name, model):
    assert Grid.of(model.model) == GRIDS[name]


SIZES = [((0, 0), (1024, 1024)), ((512, 128), (128, 512)), ((0, 128), (128, 1024)), ((65536, 0), (1024, 1344))]


@pytest.mark.parametrize("given, wanted", SIZES)
def test_regional_denoise(name, model, given, wanted):
    """given: width and height; wanted: height and width."""
    cell = GRIDS[name].pixels_per_cell
    patched = run(RegionalDenoiseNode, model=model, region_width=given[0], region_height=given[1]).result[0]
    assert pixels_of(layout(patched, 1152 // cell, 1344 // cell), cell) == wanted


@pytest.mark.parametrize("given, wanted", SIZES)
def test_region_layout(name, model, given, wanted):
    out = run(RegionLayoutNode, samples=latent(model, 1152, 1344), region_width=given[0], region_height=given[1], model=model)
    regions, cell = out.result[0], GRIDS[name].pixels_per_cell
    assert pixels_of(regions, cell) == wanted and regions.pixels_per_cell == cell
    assert (tuple(out.ui["loupe_canvas"]), tuple(out.ui["loupe_grid"])) == ((1152 // cell, 1344 // cell), GRIDS[name])
    patched = run(RegionalDenoiseNode, model=model, regions=regions, region_width=8).result[0]
    assert pixels_of(layout(patched, 1152 // cell, 1344 // cell), cell) == wanted


def test_sizes_are_rounded_down_to_tokens(name, model):
    """72 pixels are 9 cells of 8, 4 of 16, and 72 of 1."""
    grid = GRIDS[name]
    wanted = {"sdxl": 72, "flux": 64, "flux2": 64, "radiance": 64}[name]
    patched = run(RegionalDenoiseNode, model=model, region_width=72, region_height=72).result[0]
    assert pixels_of(layout(patched, 256 // grid.pixels_per_cell, 256 // grid.pixels_per_cell), grid.pixels_per_cell) == (wanted, wanted)


def test_a_region_as_large_as_a_canvas_of_no_whole_tokens_covers_it():
    patched = run(RegionalDenoiseNode, model=tiny.radiance(), region_width=100, region_height=64, overlap=0.5).result[0]
    assert layout(patched, 100, 100).regions == [(y, 0, 64, 100) for y in (0, 32, 36)]


def prompts():
    return {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2)}


@pytest.mark.parametrize("size, wanted", [(0, 1024), (256, 256)])
def test_demofusion_sampler(name, model, size, wanted, monkeypatch):
    given = {}
    monkeypatch.setattr(demofusion, "sample_demofusion", lambda *args, **settings: given.update(settings) or args[3])
    run(DemoFusionSampler, model=model, **prompts(), reference=latent(model, 128, 128), region_width=size, region_height=size)
    cell = GRIDS[name].pixels_per_cell
    assert given["regional"].region == (wanted // cell, wanted // cell)
    assert given["regional"].canvas_pixels == (256, 256)


@pytest.mark.parametrize("size, wanted", [(0, 1024), (256, 256)])
def test_pixelsmith_sampler(name, model, size, wanted, monkeypatch):
    given = {}
    monkeypatch.setattr(pixelsmith, "sample", lambda *args, **settings: given.update(settings) or args[3])
    run(PixelSmithSampler, model=model, **prompts(), guide=latent(model, 1152, 1152), patch_size=size)
    assert given["patch_size"] * GRIDS[name].pixels_per_cell == wanted


def test_patches_are_even_and_of_whole_tokens():
    assert [patch_cells(Grid(8, 1, 1024), pixels, 64, 64) for pixels in (64, 72, 80, 88)] == [8, 8, 10, 10]
    assert [patch_cells(Grid(1, 16, 1024), pixels, 512, 512) for pixels in (64, 72, 104, 112)] == [64, 64, 96, 112]
    assert patch_cells(Grid(8, 3, 1024), 128, 64, 64) == 12


def test_a_canvas_that_holds_no_patch_is_refused(model):
    with pytest.raises(ValueError, match="guide is 512 x 640 pixels and a patch 1024; expected sides that hold a patch. Enlarge guide, or type a smaller patch_size."):
        run(PixelSmithSampler, model=model, **prompts(), guide=latent(model, 640, 512))


@pytest.mark.parametrize("node, socket, sizes", [(DemoFusionSampler, "reference", {"region_width": 64, "region_height": 64}), (PixelSmithSampler, "guide", {"patch_size": 64})])
def test_the_network_sees_regions_of_the_size(name, model, node, socket, sizes):
    watched, seen = tiny.views_seen(model)
    run(node, model=watched, **prompts(), **{socket: latent(model, 128, 128)}, **sizes, steps=2)
    side = 64 // GRIDS[name].pixels_per_cell
    assert (side, side) in seen and max(seen) <= (2 * side, 2 * side)


# Errors


@pytest.mark.parametrize("pixels", [1, 16, 63, 65537])
def test_what_is_no_size_is_refused_by_name(pixels):
    words = f"patch_size is {pixels} pixels; expected 0 (the model's native side, 512) or 64 to 65536. Type another size in pixels."
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Grid(8, 1, 512).cells("patch_size", pixels)
    with pytest.raises(ValueError, match=f"^patch_size is {pixels} pixels; expected 64 to 65536"):
        Grid().cells("patch_size", pixels)


def test_a_layout_without_a_model_takes_typed_sizes_only():
    words = "region_height is 0, the model's native side; expected a model to be connected, or a size. Connect model, or type a size in pixels."
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        run(RegionLayoutNode, samples=latent(tiny.sdxl(), 256, 256))
    with pytest.raises(ValueError, match="^region_width is 0"):
        run(RegionLayoutNode, samples=latent(tiny.sdxl(), 256, 256), region_height=64)


# A layout's cells and the model's


def test_cells_of_a_layout_without_a_model_are_those_the_latent_says():
    plain, told = latent(tiny.flux2(), 1024, 1024), {**latent(tiny.flux2(), 1024, 1024), "downscale_ratio_spacial": 16}
    for samples, cell in ((plain, 8), (told, 16)):
        out = run(RegionLayoutNode, samples=samples, region_width=512, region_height=256)
        assert pixels_of(out.result[0], cell) == (256, 512) and tuple(out.ui["loupe_grid"]) == (cell, 1, None)


def test_a_layout_for_other_cells_than_the_model_s_is_refused():
    """The latent does not say that its cells are of 16 pixels: 512 would be 1024 of them."""
    model = tiny.flux2()
    regions = run(RegionLayoutNode, samples=latent(model, 1024, 1024), region_width=512, region_height=512).result[0]
    patched = run(RegionalDenoiseNode, model=model, regions=regions).result[0]
    with pytest.raises(ValueError, match="regions is a layout for latent cells of 8 pixels, the model's have 16.*Connect the model to the Region Layout node"):
        layout(patched, 64, 64)


@pytest.mark.parametrize("name", ["flux2", "radiance"])
@pytest.mark.parametrize("connected", [True, False], ids=["model", "no model"])
def test_an_empty_latent_that_comfyui_resizes(model, name, connected):
    """Empty Latent Image has cells of 8 pixels on every model."""
    (empty,) = nodes.EmptyLatentImage().generate(192, 128, 1)
    given = {"model": model} if connected else {}
    regions = run(RegionLayoutNode, samples=empty, region_width=64, region_height=64, **given).result[0]
    watched, seen = tiny.views_seen(model)
    patched = run(RegionalDenoiseNode, model=watched, regions=regions).result[0]
    out = nodes.common_ksampler(patched, 1, 1, 1.0, "euler", "simple", tiny.conditioning(1), tiny.conditioning(2), empty)[0]["samples"]
    cell = GRIDS[name].pixels_per_cell
    assert out.shape[-2:] == (128 // cell, 192 // cell) and seen == {(64 // cell, 64 // cell)}


def test_a_rescaled_layout_moves_by_whole_tokens():
    patched = run(RegionalDenoiseNode, model=tiny.radiance(), regions=RegionLayout(16, 16, 8, 8, 4, 4, pixels_per_cell=8)).result[0]
    assert layout(patched, 128, 128) == RegionLayout(128, 128, 64, 64, 32, 32, patch=16)


def test_the_latent_is_the_connected_model_s():
    with pytest.raises(ValueError, match="samples has 4 channels, the model's latents have 128"):
        run(RegionLayoutNode, samples=latent(tiny.sdxl(), 256, 256), model=tiny.flux2())


def test_widgets_are_in_pixels_and_begin_at_the_native_side():
    for node in (RegionalDenoiseNode, RegionLayoutNode, DemoFusionSampler, PixelSmithSampler):
        sides = [one for one in node.define_schema().inputs if one.id in ("region_width", "region_height", "patch_size")]
        assert sides and all((one.default, one.min, one.max, one.step) == (0, 0, 65536, 8) for one in sides)
        assert all(one.tooltip.endswith("in pixels. 0: the model's native side.") for one in sides)


def test_saved_workflows_keep_their_order():
    assert list(inspect.signature(RegionLayoutNode.execute).parameters)[-1] == "model"
