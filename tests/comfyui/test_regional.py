import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import comfy.utils
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from loupe.engine import Call
from loupe.engine.evaluation import KEY, engine_of, with_parts
from loupe.engine.views import Canvas
from loupe.methods.regions import RegionLayout
from loupe.patches.demofusion import DilatedPass
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.regional_denoise import RegionalDenoise


def regional(model, region=8, **settings):
    return with_parts(model, RegionalDenoise((region, region), **settings))


def latent_of(model, *shape, seed=3):
    channels = model.model.latent_format.latent_channels
    batch, height, width = shape
    return tiny.noise((batch, channels, height, width), seed)


def crop(tensor, y, x, size=8):
    return tensor[..., y : y + size, x : x + size]


@pytest.mark.numerics
@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("sizes", ["native", "canvas"])
def test_one_region_is_stock_to_the_bit(name, sizes):
    model = tiny.MODELS[name]()
    latent = latent_of(model, 2, 8, 8)
    out = tiny.sample(regional(model, 16, jitter=True, sizes=sizes), latent)
    assert torch.equal(out, tiny.sample(model, latent))


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["sdxl", "sd15", "sd3", "flux"])
def test_regions_are_the_network_on_each_crop_averaged(name):
    model = tiny.MODELS[name]()
    x = latent_of(model, 2, 8, 12) * 2
    conds = tiny.conditioning(1), tiny.conditioning(2)
    fused = tiny.evaluate(regional(model), x, conds)
    left, right = tiny.evaluate(model, crop(x, 0, 0), conds), tiny.evaluate(model, crop(x, 0, 4), conds)
    for out, a, b in zip(fused, left, right):
        expected = torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, b[..., 4:]], -1)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
@pytest.mark.parametrize("jitter", [False, True])
def test_batches_of_regions_equal_single_ones(jitter):
    model = tiny.sdxl()
    latent = latent_of(model, 2, 12, 20)
    control = tiny.controlnet(torch.rand(1, 3, 96, 160))
    positive = tiny.conditioning(1, control=control, mask=torch.rand(1, 12, 20))
    args = {"positive": positive, "negative": tiny.conditioning(2, control=control), "steps": 2}
    one = tiny.sample(regional(model, jitter=jitter, regions_per_call=1), latent, **args)
    for batch in (3, 0):
        assert tiny.relative(tiny.sample(regional(model, jitter=jitter, regions_per_call=batch), latent, **args), one) < 1e-4


@pytest.mark.numerics
def test_images_of_a_batch_equal_single_images():
    model = patch_demofusion(regional(tiny.sdxl(), jitter=True), tiny.noise((1, 4, 8, 8)), renormalize=True)
    latent, noise = latent_of(model, 3, 16, 16), tiny.noise((3, 4, 16, 16))
    together = tiny.sample(model, latent, noise_tensor=noise)
    for i in range(3):
        alone = tiny.sample(model, latent[i : i + 1], noise_tensor=noise[i : i + 1])
        assert tiny.relative(together[i : i + 1], alone) < 1e-4


def test_a_cached_model_gives_the_same_image_again_and_after_an_interrupt(monkeypatch):
    model = patch_demofusion(regional(tiny.sdxl(), jitter=True, regions_per_call=2), tiny.noise((1, 4, 8, 8)))
    latent = latent_of(model, 1, 16, 24)
    first = tiny.sample(model, latent)

    calls = []
    check = comfy.model_management.throw_exception_if_processing_interrupted

    def interrupt_in_time():
        calls.append(None)
        if len(calls) == 5:
            comfy.model_management.interrupt_current_processing()
        check()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt_in_time)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(model, latent)
    assert len(calls) == 5
    assert torch.equal(tiny.sample(model, latent), first)


def test_patches_commute_and_replace_themselves():
    model, reference = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    latent = latent_of(model, 1, 16, 16)
    a = patch_demofusion(regional(model, jitter=True), reference)
    b = regional(patch_demofusion(model, reference), jitter=True)
    twice = regional(patch_demofusion(regional(a, 12), torch.zeros(1, 4, 4, 4)), jitter=True)
    twice = patch_demofusion(twice, reference)
    out = tiny.sample(a, latent)
    assert torch.equal(tiny.sample(b, latent), out)
    assert torch.equal(tiny.sample(twice, latent), out)
    assert len(twice.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)) == len(twice.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY)) == 1
    # the model that was patched is as it was
    assert not model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    assert not torch.allclose(out, tiny.sample(model, latent), rtol=1e-2)


def test_the_seed_moves_the_regions_and_each_step_moves_them_again():
    settings = RegionalDenoise((8, 8), jitter=True, seed=1)
    layout = settings.layout_of(Canvas(24, 24))
    jitter = settings.jitter_of(layout)
    assert jitter == 1
    draws = {tuple(settings.draw(layout, jitter, step)) for step in range(5)}
    assert len(draws) == 5
    assert settings.draw(layout, jitter, 3) == RegionalDenoise((8, 8), jitter=True, seed=1).draw(layout, jitter, 3)
    assert settings.draw(layout, jitter, 3) != RegionalDenoise((8, 8), jitter=True, seed=2).draw(layout, jitter, 3)


@pytest.mark.numerics
def test_guidance_scale_one_skips_the_negative_branch():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 16))
    patched = patch_demofusion(regional(model), tiny.noise((1, 4, 8, 8)))
    ignored = [tiny.sample(patched, latent, cfg=1.0, negative=tiny.conditioning(seed)) for seed in (5, 6)]
    assert torch.equal(*ignored)
    both = patched.clone()
    both.model_options["disable_cfg1_optimization"] = True
    assert tiny.relative(tiny.sample(both, latent, cfg=1.0), ignored[0]) < 1e-4


def test_other_wrappers_see_every_network_call_and_all_regions():
    shapes = []

    def watch(executor, model, conds, x, timestep, options):
        shapes.append((tuple(x.shape), len(timestep)))
        return executor(model, conds, x, timestep, options)

    model = regional(tiny.sdxl(), regions_per_call=2)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "other", watch)
    tiny.sample(model, latent_of(model, 2, 8, 16), steps=1)
    assert shapes == [((4, 4, 8, 8), 4), ((2, 4, 8, 8), 2)]


def test_progress_runs_over_all_region_batches(monkeypatch):
    sent = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: sent.append(value / total))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    model = patch_demofusion(regional(tiny.sdxl(), regions_per_call=2), torch.zeros(1, 4, 8, 8))
    tiny.sample(model, latent_of(model, 1, 16, 16), steps=2)
    assert sent == sorted(sent)
    assert sent[0] == pytest.approx(2 / 13 / 2)
    assert sent[-1] == 1


def test_memory_is_asked_for_one_batch_of_regions(monkeypatch):
    asked = []
    model = tiny.sdxl()
    required = model.model.memory_required
    monkeypatch.setattr(model.model, "memory_required", lambda shape, **kwargs: asked.append(list(shape)) or required(shape, **kwargs))
    tiny.sample(regional(model, regions_per_call=3), latent_of(model, 1, 32, 32), steps=1)
    assert asked[0] == [6, 4, 8, 8]
    asked.clear()
    tiny.sample(patch_demofusion(regional(model, regions_per_call=1), torch.zeros(1, 4, 16, 16)), latent_of(model, 1, 32, 32), steps=1)
    assert asked[0] == [2, 4, 16, 16]


def test_free_memory_sets_the_batch(monkeypatch):
    sizes = []
    model = regional(tiny.sdxl())
    monkeypatch.setattr(Call, "predict_views", lambda call, images, views: sizes.append(call._batch_that_fits(images[0].shape)) or [images, images])
    need = 1.5 * model.model.memory_required([2, 4, 8, 8])
    for free, expected in ((0, 1), (3.5 * need, 3), (1000 * need, 16)):
        monkeypatch.setattr(model, "get_free_memory", lambda device, free=free: free)
        tiny.sample(model, torch.zeros(1, 4, 8, 24), steps=1)
        assert sizes.pop() == expected


@pytest.mark.parametrize("shape", [(1, 4, 64), (1, 64)])
def test_packed_latents_are_refused_before_sampling(shape):
    model = regional(tiny.sdxl())
    wrapper = model.get_wrappers(WrappersMP.PREPARE_SAMPLING, KEY)[0]
    with pytest.raises(ValueError, match="packed.*Sample this model without"):
        wrapper(None, model, shape, {})


def test_a_layout_for_another_size_is_refused_before_sampling():
    model = regional(tiny.sdxl(), layout=RegionLayout.from_overlap(16, 16, 8, 8))
    with pytest.raises(ValueError, match="layout of 16 x 16 latent cells, the sampled latent has 24 x 16.*Region Layout"):
        tiny.sample(model, latent_of(model, 1, 16, 24))


def test_style_model_masks_are_refused_before_sampling():
    conds = tiny.conditioning(attention_mask=torch.ones(1, 4, 4), attention_mask_img_shape=(2, 2))
    model = regional(tiny.sdxl())
    with pytest.raises(ValueError, match="style model"):
        tiny.sample(model, latent_of(model, 1, 16, 24), positive=conds)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde", "heun", "euler_ancestral_cfg_pp", "res_multistep", "uni_pc", "lcm"])
def test_any_sampler_denoises_by_region(sampler):
    model = regional(tiny.sdxl(), jitter=True)
    out = tiny.sample(model, latent_of(model, 1, 8, 16), sampler=sampler)
    assert out.isfinite().all()
    assert not torch.allclose(out, tiny.sample(tiny.sdxl(), latent_of(model, 1, 8, 16), sampler=sampler), rtol=1e-3)


def test_a_noise_mask_keeps_its_part():
    model = patch_demofusion(regional(tiny.sdxl()), tiny.noise((1, 4, 8, 8)))
    latent, mask = latent_of(model, 1, 16, 16), torch.ones(1, 1, 16, 16)
    mask[..., 4:9, 3:] = 0
    out = tiny.sample(model, latent, noise_mask=mask)
    torch.testing.assert_close(torch.where(mask > 0, latent, out), latent, rtol=1e-5, atol=1e-5)


def test_another_pack_s_attention_patch_works_before_and_after():
    """A replaced cross attention, in the slot that adapters use."""

    def shrink(q, k, v, extra_options):
        assert len(q) % len(extra_options["cond_or_uncond"]) == 0
        return comfy.ldm.modules.attention.optimized_attention(q, k, v * 0.5, extra_options["n_heads"])

    def adapter(model):
        model = model.clone()
        model.set_model_attn2_replace(shrink, "middle", 0, 0)
        return model

    def loupe(model):
        return patch_demofusion(regional(model, jitter=True), tiny.noise((1, 4, 8, 8)))

    model, latent = tiny.sdxl(), tiny.noise((1, 4, 16, 16))
    out = tiny.sample(loupe(adapter(model)), latent)
    assert torch.equal(tiny.sample(adapter(loupe(model)), latent), out)
    assert not torch.allclose(tiny.sample(loupe(model), latent), out, rtol=1e-3)


def drawn(monkeypatch, steps=4, **settings):
    """The first region of each step, and the result."""
    places, predict = [], Call.predict_views

    def predict_views(call, images, views, *args):
        places.append((views[0].y.offset, views[0].x.offset))
        return predict(call, images, views, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Call, "predict_views", predict_views)
        model = with_parts(tiny.sd15(), RegionalDenoise((16, 16), 0.5, seed=3, **settings))
        return places, tiny.sample(model, tiny.noise((1, 4, 32, 32), 3), steps=steps)


def test_regions_move_in_the_share_of_the_steps_that_is_asked_for(monkeypatch):
    still, grid = drawn(monkeypatch)
    moving, whole = drawn(monkeypatch, jitter=True)
    assert set(still) == {(0, 0)} and len(set(moving)) > 1
    half, out = drawn(monkeypatch, jitter=True, jitter_until=0.5)
    assert half == moving[:2] + still[2:] and not torch.equal(out, whole)
    assert torch.equal(drawn(monkeypatch, jitter=True, jitter_until=0.0)[1], grid)
    assert torch.equal(drawn(monkeypatch, jitter=True, jitter_until=1.0)[1], whole)


@pytest.mark.numerics
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_grid_that_moves_as_a_whole(overlap):
    model = tiny.sdxl()
    latent = latent_of(model, 2, 12, 20)
    out = [tiny.sample(regional(model, overlap=overlap, shift=True, regions_per_call=n), latent) for n in (1, 4)]
    assert tiny.relative(*out) < 1e-4
    assert not torch.equal(out[0], tiny.sample(regional(model, overlap=overlap), latent))
    assert not torch.equal(out[0], tiny.sample(regional(model, overlap=overlap, shift=True, seed=1, regions_per_call=1), latent))
    one = tiny.sample(regional(model, overlap=overlap, shift=True, regions_per_call=1), latent[1:], noise_tensor=tiny.noise(latent.shape, 7)[1:])
    assert tiny.relative(one, out[0][1:]) < 1e-4
    works = regional(model, overlap=overlap, shift=True).get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY)[0].__self__.works(model.model, Canvas(12, 20))
    assert [work.views for work in works] == [2 * 3 if not overlap else 3 * 5]


@pytest.mark.numerics
def test_a_moving_grid_of_one_region_is_stock_to_the_bit():
    model = tiny.sdxl()
    latent = latent_of(model, 2, 8, 8)
    assert torch.equal(tiny.sample(regional(model, 16, shift=True), latent), tiny.sample(model, latent))


@pytest.mark.numerics
def test_a_dilated_pass_below_its_least_weight_costs_nothing():
    model = tiny.sdxl()
    latent = latent_of(model, 1, 16, 16)

    def rows(least):
        calls = []
        patched = with_parts(regional(model), DilatedPass((8, 8), least=least))
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "rows", lambda executor, x, *args, **kwargs: (calls.append(len(x)), executor(x, *args, **kwargs))[1])
        out = tiny.sample(patched, latent, steps=6)
        counted = sum(engine_of(patched).count(model.model, Canvas(16, 16), float(sigma)) for sigma in comfy.samplers.KSampler(model, 6, torch.device("cpu"), "euler", "simple", 1.0).sigmas[:-1])
        assert sum(calls) == 2 * counted
        return out, sum(calls)

    (whole, most), (half, fewer), (none, least) = rows(0.0), rows(0.5), rows(1.1)
    assert most - least == 6 * 2 * 4 and least < fewer < most
    assert torch.equal(none, tiny.sample(regional(model), latent, steps=6))
    assert torch.equal(whole, tiny.sample(with_parts(regional(model), DilatedPass((8, 8))), latent, steps=6))
    assert not torch.equal(half, whole) and not torch.equal(half, none)
