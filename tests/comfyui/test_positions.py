"""positions "canvas": the network counts on a region what it counts there on the whole canvas."""

import contextlib
import unittest.mock

import families
import pytest
import tiny
import torch
from loupe.engine.evaluation import with_parts
from loupe.engine.views import Canvas, patch_size
from loupe.methods.regions import merge
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

LEVEL = 0.7
MODULES = {"flux": "pe_embedder", "flux2": "pe_embedder", "longcat": "pe_embedder", "qwen": "pe_embedder", "krea2": "pe_embedder", "mage_flow": "pe_embedder", "ernie": "pos_embed"}  # are given the positions
IMAGE_FIRST = ("ernie",)
SCALED = (0.5, 3.0, 0.75, 2.0, 1.0, 0.0)  # scale and shift of x, y and time, which some networks heed


@pytest.fixture(scope="module")
def models():
    """model(name), built once; tests patch clones."""
    built = {}

    def model(name):
        if not families.is_known(name):
            pytest.skip(f"this ComfyUI does not know {families.FAMILIES[name].config}")
        return built.get(name) or built.setdefault(name, families.build(name))

    return model


def regional(name, model, **settings):
    size = families.FAMILIES[name].region
    return with_parts(model, RegionalDenoise((size, size), **settings))


def canvas_of(name, model):
    """(latent, layout): of an odd number of tokens, in 2 x 4 regions."""
    size, patch = families.FAMILIES[name].region, patch_size(model.model.diffusion_model)
    x = families.latent(name, model, size + patch, 2 * size + patch, 2)
    layout = RegionalDenoise((size, size)).layout_of(Canvas.of(model.model, *x.shape[-2:]))
    assert layout.count == 8
    return x, layout


def evaluate(name, model, x):
    return tiny.evaluate(model, x, families.conditioning(name, model, x.shape), LEVEL)


@contextlib.contextmanager
def before(module, function):
    handle = module.register_forward_pre_hook(lambda _, args: function(*args))
    try:
        yield
    finally:
        handle.remove()


def check(name, model, x, layout, alone):
    """alone(region): predictions of the network on a crop at its place on the canvas."""
    fused, others = (evaluate(name, regional(name, model, positions=positions), x) for positions in ("canvas", "region"))
    crops = zip(*(alone(region) for region in layout.regions))
    for out, other, parts in zip(fused, others, crops):
        assert tiny.relative(out, merge(parts, layout.regions, *x.shape[-2:], layout.weights())) < 5e-6
        assert tiny.relative(out, other) > 1e-4


def scaled(model):
    model = model.clone()
    model.set_model_rope_options(*SCALED)
    return model


@pytest.mark.parametrize("change", [lambda model: model, scaled], ids=["plain", "scaled"])
@pytest.mark.parametrize("name", MODULES)
def test_tokens_are_counted_as_on_the_canvas(name, change, models):
    model = change(models(name))
    if name == "qwen" and not shows_positions(name, model):
        pytest.skip("this ComfyUI's network does not show its positions")
    network = model.model.diffusion_model
    module, patch = getattr(network, MODULES[name]), patch_size(network)
    x, layout = canvas_of(name, model)
    found, canvas = [], [side // patch for side in x.shape[-2:]]
    with before(module, found.append):
        evaluate(name, model, x)
    tokens = canvas[0] * canvas[1]
    image, text = (slice(tokens), slice(tokens, None)) if name in IMAGE_FIRST else (slice(-tokens, None), slice(-tokens))
    grid, words = found[0][:1, image].unflatten(1, canvas).movedim(-1, 1), found[0][:1, text]

    def alone(region):
        own = type(region)(*(side // patch for side in region)).crop(grid).flatten(2).mT
        ids = torch.cat([own, words] if name in IMAGE_FIRST else [words, own], 1)
        with before(module, lambda own: (ids.expand(len(own), -1, -1),)):
            return evaluate(name, model, region.crop(x))

    check(name, model, x, layout, alone)


def shows_positions(name, model):
    seen, spied = [], model.clone()
    spied.set_model_post_input_patch(lambda args: seen.append(args) or args)
    evaluate(name, spied, families.latent(name, model, 8, 8))
    return bool(seen)


@pytest.mark.parametrize("change", [lambda model: model, scaled], ids=["plain", "scaled"])
def test_pixeldit_rotates_as_on_the_canvas(change, models):
    """What it adds for each pixel begins anew: ComfyUI does not let that be moved."""
    name, model = "pixeldit", change(models("pixeldit"))
    import comfy.ldm.pixeldit.model

    network = model.model.diffusion_model
    x, layout = canvas_of(name, model)
    real = comfy.ldm.pixeldit.model.precompute_freqs_cis_2d
    canvas = [side // 16 for side in x.shape[-2:]]

    def alone(region):
        place = type(region)(*(side // 16 for side in region))

        def rotations(dim, height, width, **options):
            whole = real(dim, *canvas, **options).unflatten(0, canvas)
            return place.crop(whole.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1)).flatten(0, 1)

        with contextlib.ExitStack() as patches:
            patches.enter_context(unittest.mock.patch.object(comfy.ldm.pixeldit.model, "precompute_freqs_cis_2d", rotations))
            for block in network.pixel_blocks:
                patches.enter_context(unittest.mock.patch.object(block, "_rope_fn", rotations))
            return evaluate(name, model, region.crop(x))

    check(name, model, x, layout, alone)


@pytest.mark.parametrize("name", ["anima", "cosmos_predict2"])
def test_only_distances_count(name, models):
    """Also where its tokens lie on the canvas; text is seen by cross-attention."""
    model = models(name)
    embedder = model.model.diffusion_model.pos_embedder
    x, layout = canvas_of(name, model)
    rows, columns = (side // 2 for side in x.shape[-2:])
    region, real = layout.regions[-1], embedder.forward

    def on_the_canvas(tokens, *args, **kwargs):
        whole = real(tokens.new_zeros(1, 1, rows, columns, 1), *args, **kwargs).unflatten(0, (rows, columns))
        return whole[region.y // 2 :, region.x // 2 :].flatten(0, 1)

    own = evaluate(name, model, region.crop(x))
    with unittest.mock.patch.object(embedder, "forward", on_the_canvas):
        there = evaluate(name, model, region.crop(x))
    for a, b in zip(own, there):
        assert not torch.equal(a, b)
        assert tiny.relative(a, b) < 5e-6
    fused = (evaluate(name, regional(name, model, positions=positions), x) for positions in ("canvas", "region"))
    assert all(map(torch.equal, *fused))


def test_only_distances_count_where_positions_can_be_moved(models):
    model = models("kandinsky5")
    moved = model.clone()
    moved.set_model_rope_options(1.0, 3.0, 1.0, 5.0, 1.0, 0.0)
    x, _ = canvas_of("kandinsky5", model)
    for a, b in zip(evaluate("kandinsky5", moved, x), evaluate("kandinsky5", model, x)):
        assert not torch.equal(a, b)
        assert tiny.relative(a, b) < 5e-6


def test_a_network_that_does_not_read_positions_is_refused(models, monkeypatch):
    """As that of an older ComfyUI, whose regions would all lie at the canvas's corner without a word."""
    name, model = "lumina2", models("lumina2")
    x, _ = canvas_of(name, model)
    moved = regional(name, model, positions="canvas")
    evaluate(name, moved, x)
    monkeypatch.setattr("inspect.getsource", lambda module: "def forward(self): ...")
    with pytest.raises(ValueError, match="does not let Lumina2's positions be moved.*Update ComfyUI"):
        evaluate(name, moved, x)
