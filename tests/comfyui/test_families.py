"""Regions on tiny networks: what hangs on a family. What holds for all: test_all_families.py."""

import comfy.ldm.pixart.pixartms
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from loupe.engine.evaluation import parts_of, with_parts
from loupe.engine.families import family_of
from loupe.engine.positions import PositionShift
from loupe.engine.views import Axis, Canvas, View, patch_size
from loupe.methods.regions import RegionLayout
from loupe.patches.demofusion import DilatedPass
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

SMALLEST = {"pixart": 36}  # its grid of positions has no smaller one
CONDS = tiny.conditioning(1), tiny.conditioning(2)
FLOW = 0.7


@pytest.fixture(scope="module")
def models():
    """model(family), built once; tests patch clones."""
    built = {}
    return lambda family: built.get(family) or built.setdefault(family, tiny.FAMILIES[family]())


def regional(model, region, **settings):
    return with_parts(model, RegionalDenoise((region, region), **settings))


def latent_of(family, model, height, width, images=1, seed=3):
    frames = [tiny.FRAMES[family]] if family in tiny.FRAMES else []
    return tiny.noise((images, model.model.latent_format.latent_channels, *frames, height, width), seed)


def without_attention(model):
    """Clone of a network whose tokens and pixels only see their neighbors, through convolutions."""
    model = model.clone()

    def nothing(function, *args, **kwargs):
        return torch.zeros_like(function(*args, **kwargs))

    model.model_options["transformer_options"]["optimized_attention_override"] = nothing
    return model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_attention_regions_equal_the_whole(family, monkeypatch):
    model = tiny.FAMILIES[family]()
    network = model.model.diffusion_model
    unet = isinstance(network, UNetModel)
    # what sees all of the image, besides attention, or depends on where its corner is
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x
    if family == "sd3":
        network.pos_embed.zero_()
    if family == "pixart":
        for block in network.blocks:
            block.attn.proj.weight.zero_()
        positions = comfy.ldm.pixart.pixartms.get_2d_sincos_pos_embed_torch
        monkeypatch.setattr(comfy.ldm.pixart.pixartms, "get_2d_sincos_pos_embed_torch", lambda *args, **kwargs: torch.zeros_like(positions(*args, **kwargs)))
    # the UNet's convolutions reach 32 cells far
    height, width, step = (8, 80, 8) if unet else (SMALLEST.get(family, 8), SMALLEST.get(family, 8), 4)
    x = latent_of(family, model, height, width + step)
    model = without_attention(model)
    whole = tiny.evaluate(model, x, CONDS, FLOW)
    out = tiny.evaluate(with_parts(model, RegionalDenoise((height, width), 1 - step / width, sizes="unchanged")), x, CONDS, FLOW)
    inside = slice(step + 32, width - 32) if unet else slice(None)
    for a, b in zip(out, whole):
        torch.testing.assert_close(a[..., inside], b[..., inside], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(whole[0][..., inside], x[..., inside], rtol=1e-2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_regions_and_steps_are_multiples_of_the_model_s_patches(family, models):
    model = models(family)
    size = patch_size(model.model.diffusion_model)
    assert size == (1 if family in ("sd15", "sdxl") else 2)
    patched = with_parts(model, RegionalDenoise((13, 11), overlap=0.3, jitter=True))
    settings = parts_of(patched)["regions"]
    layout = settings.layout_of(Canvas.of(model.model, 32, 40))
    assert (layout.region_height, layout.region_width) == (13 // size * size, 11 // size * size)
    moved = settings.draw(layout, settings.jitter_of(layout), 1)
    for region in (*layout.regions, *moved):
        assert region.y % size == region.x % size == 0


@pytest.mark.parametrize("family", ["pixart", "qwen", "wan", "zimage"])
def test_demofusion_runs(family, models):
    model, size = models(family), SMALLEST.get(family, 8)
    model = patch_demofusion(regional(model, size), latent_of(family, model, size, size), renormalize=True)
    latent = latent_of(family, model, 2 * size, 2 * size)
    out = tiny.sample(model, latent, steps=2)
    assert out.shape == latent.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("family", ["flux", "zimage"])
def test_canvas_positions_are_comfyui_s_shifted_ones(family, models):
    model = models(family)
    x = latent_of(family, model, 8, 16, 2)
    fused = tiny.evaluate(regional(model, 8, positions="canvas"), x, CONDS, FLOW)
    crops = []
    for start in (0, 4, 8):
        shifted = model.clone()
        shifted.set_model_rope_options(1.0, start / 2, 1.0, 0.0, 1.0, 0.0)
        crops.append(tiny.evaluate(shifted, x[..., start : start + 8], CONDS, FLOW))
    for out, a, b, c in zip(fused, *crops):
        expected = torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, (b[..., 4:] + c[..., :4]) / 2, c[..., 4:]], -1)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused[0], tiny.evaluate(regional(model, 8), x, CONDS, FLOW)[0], rtol=1e-3)


def test_canvas_positions_change_nothing_where_only_distances_count(models):
    model = models("wan")
    x = latent_of("wan", model, 8, 16)
    shifted = model.clone()
    shifted.set_model_rope_options(1.0, 3.0, 1.0, 5.0, 1.0, 0.0)
    torch.testing.assert_close(tiny.evaluate(shifted, x, CONDS, FLOW)[0], tiny.evaluate(model, x, CONDS, FLOW)[0], rtol=1e-4, atol=1e-4)
    fused = (tiny.evaluate(regional(model, 8, positions=positions), x, CONDS, FLOW)[0] for positions in ("canvas", "region"))
    assert torch.equal(*fused)


def ids_of(model, x, **keys):
    """Positions that the network counts: of its image and of its text tokens."""
    found = []
    spied = model.clone()
    spied.set_model_post_input_patch(lambda args: found.append((args["img_ids"], args["txt_ids"])) or args)
    tiny.evaluate(spied, x, tuple(tiny.conditioning(seed, **keys) for seed in (1, 2)), FLOW)
    return found[0] if found else None


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_shifted_positions_are_those_of_the_canvas(family, references, models):
    model = models(family)
    x, reference = latent_of(family, model, 12, 20), latent_of(family, model, 12, 20)
    if ids_of(model, x) is None:
        pytest.skip("this ComfyUI's network does not show its positions")
    views = [View(Axis(y, 1, 8), Axis(x, 1, 8)) for y, x in ((0, 4), (4, 12))]
    keys = [{"reference_latents": [view.latent(reference)]} if references else {} for view in views]
    whole, text = ids_of(model, x, **({"reference_latents": [reference]} if references else {}))
    own, own_text = ids_of(model, views[0].latent(x), **keys[0])
    shift = PositionShift(views, x, model.model, references)
    rows = torch.cat([own[:1]] * 4)  # two branches of two views
    out = shift({"img_ids": rows, "txt_ids": own_text})
    grids = whole[0].unflatten(0, (-1, 6, 10))
    for row, view in zip(out["img_ids"], views * 2):
        expected = grids[:, view.y.offset // 2 : view.y.offset // 2 + 4, view.x.offset // 2 : view.x.offset // 2 + 4]
        torch.testing.assert_close(row, expected.flatten(0, 2))
    assert torch.equal(out["txt_ids"], text)
    assert not torch.equal(out["img_ids"], rows)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "pixart"])
def test_canvas_positions_are_refused_where_the_model_has_none(family, models):
    model = models(family)
    with pytest.raises(ValueError, match=rf"positions is 'canvas'.*{type(model.model).__name__} has none.*'region'"):
        tiny.sample(regional(model, 8, positions="canvas"), latent_of(family, model, 16, 16))


def test_canvas_positions_are_refused_where_comfyui_hides_them(models):
    model = models("qwen")
    assert family_of(model.model).positions == "post_input_centered"
    x = latent_of("qwen", model, 8, 16)
    patched = regional(model, 8, positions="canvas")
    if ids_of(model, x) is None:
        with pytest.raises(ValueError, match="does not let QwenImage's positions be moved.*Update ComfyUI"):
            tiny.evaluate(patched, x, CONDS, FLOW)
    else:
        assert not torch.allclose(tiny.evaluate(patched, x, CONDS, FLOW)[0], tiny.evaluate(regional(model, 8), x, CONDS, FLOW)[0], rtol=1e-3)


LATER = {"krea2": "Krea2", "seedvr2": "SeedVR2", "kandinsky5": "Kandinsky5Image"}  # not of every ComfyUI


def later(family):
    if not hasattr(comfy.supported_models, LATER[family]):
        pytest.skip(f"this ComfyUI does not know {LATER[family]}")
    return getattr(tiny, family)()


def conds_of(family, model, x):
    if family != "seedvr2":
        return CONDS
    from comfy_extras.nodes_seedvr import SeedVR2Conditioning

    return SeedVR2Conditioning.execute(model, {"samples": tiny.noise(x.shape, 50)}).args[:2]


@pytest.mark.parametrize("family", LATER)
def test_tokens_of_networks_that_call_their_size_otherwise(family):
    """Or do not tell it; regions of an odd size are rounded to it."""
    model = later(family)
    assert patch_size(model.model.diffusion_model) == 2
    frames = [1] if model.model.latent_format.latent_dimensions == 3 else []
    x = tiny.noise((1, model.model.latent_format.latent_channels, *frames, 16, 24), 3)
    conds = conds_of(family, model, x)
    odd = tiny.evaluate(regional(model, 9, overlap=0.3, jitter=True), x, conds, FLOW)
    even = tiny.evaluate(regional(model, 8, overlap=0.3, jitter=True), x, conds, FLOW)
    for a, b in zip(odd, even):
        assert a.isfinite().all() and tiny.relative(a, b) < 1e-4


@pytest.mark.parametrize("family", ["pixart", *LATER])
def test_a_layout_of_an_odd_size_is_rounded_to_tokens(family):
    model, size = later(family) if family in LATER else tiny.pixart(), SMALLEST.get(family, 8)
    frames = [1] if model.model.latent_format.latent_dimensions == 3 else []
    x = tiny.noise((1, model.model.latent_format.latent_channels, *frames, size, 2 * size), 3)
    odd, even = (RegionLayout(size, 2 * size, size, region, size, stride) for region, stride in ((size + 1, size // 2 + 1), (size, size // 2)))
    conds = conds_of(family, model, x)
    for a, b in zip(*(tiny.evaluate(with_parts(model, RegionalDenoise(layout=layout)), x, conds, FLOW) for layout in (odd, even))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["pixart", *LATER])
@pytest.mark.parametrize("cells", [(18, 22), (17, 21)])
def test_dilated_views_are_whole_tokens(family, cells):
    """A canvas whose halves are no multiple of the token: padded at the top and left, and cut again."""
    model = tiny.pixart() if family == "pixart" else later(family)
    size = 36 if family == "pixart" else 16
    height, width = (side + (56 if family == "pixart" else 0) for side in cells)
    if family in ("pixart", "kandinsky5") and height % 2:
        pytest.skip("the network itself takes no odd latents")
    frames = [1] if model.model.latent_format.latent_dimensions == 3 else []
    x = tiny.noise((1, model.model.latent_format.latent_channels, *frames, height, width), 3)
    shapes = []

    def watch(executor, x, *args, **kwargs):
        shapes.append(tuple(x.shape[-2:]))
        return executor(x, *args, **kwargs)

    patched = with_parts(regional(model, size), DilatedPass((height // 2, width // 2), 2))
    patched.add_wrapper_with_key("apply_model", "watch", watch)
    out = tiny.evaluate(patched, x, conds_of(family, model, x), FLOW)
    assert all(branch.shape == x.shape and branch.isfinite().all() for branch in out)
    assert {side % 2 for shape in shapes for side in shape} == {0}
