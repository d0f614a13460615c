"""PixelSmith on ComfyUI's sampler: against the reference data, and with what a user puts on a model."""

import comfy.model_management
import comfy.utils
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from loupe.engine.evaluation import with_parts
from loupe.engine.sigmas import paper_schedule, schedule
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.pixelsmith_plan import Patch, Sweep, plan, waves
from loupe.methods.regions import Region
from loupe.nodes.pixelsmith import PixelSmithSampler
from loupe.patches.demofusion import SkipResidual
from loupe.patches.pixelsmith import KEY, PixelSmith, sample, sample_planned
from loupe.patches.regional_denoise import RegionalDenoise


def recorded_sweeps(tensors, info, planned):
    half, config = info["patch"] // 2, info["config"]
    sweeps = [[] for _ in info["timesteps"]]
    for sweep, row, column, left, down in tensors["patches"].tolist():
        sweeps[sweep].append(Patch(Region(row - half, column - half, 2 * half, 2 * half), (left + down) % 2))
    if not planned:
        return [Sweep(patches, [[i] for i in range(len(patches))]) for patches in sweeps]
    return [Sweep(patches, waves(patches, config["H"], config["W"], 0 < i < config["slider"])) for i, patches in enumerate(sweeps)]


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["ps_p32_64x80_slider20", "ps_p128_136x152_slider8", "ps_p32_lsrna_72x48", "ps_p32_cond"])
@pytest.mark.parametrize("planned", [False, True])
def test_reference(name, planned, golden):
    tensors, info = golden(name)
    config = info["config"]
    model = tiny.toy(tensors, sizes="cond" in info)
    steps = len(info["timesteps"])
    sigmas = schedule(model, "ddim (paper)", steps, steps / config["steps"])
    guidance, noise = model.model.process_latent_out(tensors["guidance"]), tensors["noise"].float()
    positive, negative = tiny.conditioning(pooled=0.1), tiny.conditioning(pooled=-0.05)
    out = sample_planned(model, positive, negative, guidance, noise, sigmas, recorded_sweeps(tensors, info, planned), config["slider"], config.get("gs", 1.0), 0, PixelSmith(info["patch"]), "published")
    out = model.model.process_latent_in(out)
    assert tiny.relative(out, tensors["final"]) < info["tolerance"]["rel_l2_fp32"]
    assert (out - tensors["final"]).abs().max() < info["tolerance"]["max_abs_fp32"]


def latent_of(model, *shape, seed=3):
    batch, height, width = shape
    return tiny.noise((batch, model.model.latent_format.latent_channels, height, width), seed)


def run(model, guidance, guided_steps=2, steps=4, cfg=4.0, seed=5, patch_size=8, positive=None, negative=None, **settings):
    sigmas = schedule(model, "simple", steps)
    return sample(model, positive or tiny.conditioning(1), negative or tiny.conditioning(2), guidance, sigmas, guided_steps, cfg, seed, patch_size, **settings)


def watched(model):
    """Clone of `model` and the list of (x, conds, timestep, patches in PixelSmith's order) of its network calls."""
    seen = []

    def watch(executor, model, conds, x, timestep, options):
        seen.append((x.clone(), conds, timestep, options[KEY].views))
        return executor(model, conds, x, timestep, options)

    # added before PixelSmith's own, and so around it: x is still the whole level
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", watch)
    return model, seen


@pytest.mark.numerics
@pytest.mark.parametrize("name", tiny.MODELS)
def test_one_patch_is_stock_euler(name):
    model = tiny.MODELS[name]()
    guidance = latent_of(model, 2, 8, 8)
    sigmas = schedule(model, "simple", 4, 0.6)
    out = sample(model, tiny.conditioning(1), tiny.conditioning(2), guidance, sigmas, 1, 4.0, 5, 8, sizes="unchanged")
    stock = tiny.sample(model, guidance, sigmas=sigmas, noise_tensor=seeded_noise(guidance.shape, stream(5, "PixelSmith noise")), positive=tiny.conditioning(1), negative=tiny.conditioning(2))
    assert tiny.relative(out, stock) < 1e-5


@pytest.mark.parametrize("name", tiny.MODELS)
def test_batches_of_patches_equal_single_ones(name):
    model = tiny.MODELS[name]()
    guidance = latent_of(model, 2, 12, 20)
    one = run(model, guidance, 3, regions_per_call=1)
    for batch in (3, 0):
        assert tiny.relative(run(model, guidance, 3, regions_per_call=batch), one) < 1e-3


@pytest.mark.numerics
def test_images_of_a_batch_equal_single_images():
    model, guidance = tiny.sdxl(), tiny.noise((3, 4, 16, 20))
    together = run(model, guidance)
    for i in range(3):
        assert tiny.relative(together[i : i + 1], run(model, guidance[i : i + 1], batch_index=[i])) < 1e-3


def test_every_patch_is_told_its_part_of_the_canvas():
    base = tiny.sdxl(in_channels=9)
    control = tiny.controlnet(torch.rand(1, 3, 128, 192))
    keys = {"control": control, "concat_latent_image": tiny.noise((1, 4, 16, 24)), "concat_mask": torch.rand(1, 1, 16, 24)}
    positive, negative = tiny.conditioning(1, mask=torch.rand(1, 16, 24), **keys), tiny.conditioning(2, **keys)
    guidance = tiny.noise((1, 4, 16, 24))
    one = run(base, guidance, positive=positive, negative=negative, regions_per_call=1)
    assert tiny.relative(run(base, guidance, positive=positive, negative=negative), one) < 1e-3

    inner = []
    model = base.clone()

    def watch(apply, args):
        inner.append((args["input"], args["c"]["c_concat"], args["c"]["control"]["output"][0].shape[0]))
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(watch)
    model, seen = watched(model)
    run(model, guidance, positive=positive, negative=negative, steps=1, guided_steps=1)
    (_, _, _, views), = seen
    (x, concat, residuals), = inner
    assert len(x) == residuals == 2 * len(views)
    latent = base.model.process_latent_in(keys["concat_latent_image"])
    for row, view in enumerate(views + views):
        torch.testing.assert_close(concat[row, 1:], view.latent(latent)[0])


@pytest.mark.parametrize("sizes", ["canvas", "native", "unchanged", "published"])
def test_sizes_told_to_sdxl(sizes):
    model, seen = watched(tiny.sdxl())
    run(model, tiny.noise((1, 4, 12, 20)), sizes=sizes)
    for _, _, _, views in seen:
        for view in views:
            y, x = view.y.offset, view.x.offset
            assert view.size_ids == {
                "canvas": (96, 160, 8 * y, 8 * x, 96, 160),
                "native": (64, 64, 0, 0, 64, 64),
                "unchanged": None,
                "published": (96, 160, 8 * (x + 4 - 64), 8 * (x + 4 - 64), 96, 160),
            }[sizes]


def test_the_plan_is_what_reaches_the_network():
    model, seen = watched(tiny.sdxl())
    run(model, tiny.noise((2, 4, 24, 40)), guided_steps=3)
    sweeps = plan(24, 40, 8, 4, 3, 5)
    expected = [[sweep.patches[i].region for i in wave] for sweep in sweeps for wave in sweep.waves]
    actual = [[Region(view.y.offset, view.x.offset, view.y.count, view.x.count) for view in views] for *_, views in seen]
    assert actual == expected
    assert all(len(x) == len(timestep) == 2 * len(views) for x, _, timestep, views in seen)
    levels = [float(timestep[0]) for _, _, timestep, _ in seen]
    assert levels == sorted(levels, reverse=True) and len(set(levels)) == 4


@pytest.mark.numerics
def test_areas_are_clipped_to_each_patch():
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 24))
    left = tiny.conditioning(3, area=(16, 10, 0, 0), strength=1.0)
    plain = run(model, guidance)
    one = run(model, guidance, positive=tiny.conditioning(1) + left, regions_per_call=1)
    assert tiny.relative(run(model, guidance, positive=tiny.conditioning(1) + left), one) < 1e-3
    assert tiny.relative(plain, one) > 1e-2


def test_guidance_scale_one_skips_the_negative_branch():
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 8, 16))
    assert torch.equal(*(run(model, guidance, cfg=1.0, negative=tiny.conditioning(seed)) for seed in (5, 6)))


def test_patches_after_guidance_see_the_patches():
    model, shapes = tiny.sdxl(), []
    model.set_model_sampler_post_cfg_function(lambda args: shapes.append(tuple(args["denoised"].shape)) or args["denoised"] * 0)
    guidance = tiny.noise((1, 4, 16, 16))
    assert run(model, guidance, guided_steps=1, steps=2).abs().max() < 1e-5
    assert all(shape[1:] == (4, 8, 8) for shape in shapes)


def test_perturbed_attention_guidance_acts_on_every_patch():
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 20))
    (guided,) = PerturbedAttentionGuidance.execute(model, 3.0).args
    out = run(guided, guidance)
    assert tiny.relative(run(guided, guidance, regions_per_call=1), out) < 1e-3
    assert tiny.relative(run(model, guidance), out) > 1e-2


def test_lora_like_patches_of_the_weights_hold():
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 16))
    patched = model.clone()
    key = "diffusion_model.out.2.weight"
    weight = model.model.state_dict()[key]
    patched.add_patches({key: (torch.zeros_like(weight),)}, strength_model=0.0)
    assert tiny.relative(run(patched, guidance), run(model, guidance)) > 0.5


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_noise_mask_keeps_its_part(name):
    model = tiny.MODELS[name]()
    guidance, mask = latent_of(model, 1, 16, 20), torch.ones(1, 1, 16, 20)
    mask[..., 4:9, 3:] = 0
    out = run(model, guidance, noise_mask=mask)
    torch.testing.assert_close(torch.where(mask > 0, guidance, out), guidance, rtol=1e-4, atol=1e-4)
    assert tiny.relative(out * mask, guidance * mask) > 0.1


def test_the_same_again_and_after_an_interrupt(monkeypatch):
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 24))
    state = torch.get_rng_state()
    first = run(model, guidance, regions_per_call=1)
    assert torch.equal(torch.get_rng_state(), state)
    calls = []
    check = comfy.model_management.throw_exception_if_processing_interrupted

    def interrupt_in_time():
        calls.append(None)
        if len(calls) == 5:
            comfy.model_management.interrupt_current_processing()
        check()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt_in_time)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, guidance, regions_per_call=1)
    assert len(calls) == 5
    assert torch.equal(run(model, guidance, regions_per_call=1), first)
    assert not torch.allclose(run(model, guidance, regions_per_call=1, seed=6), first, rtol=1e-2)


def test_previews_show_the_whole_canvas_after_every_sweep_and_progress_every_call(monkeypatch):
    shown, sent = [], []
    monkeypatch.setattr("latent_preview.prepare_callback", lambda model, steps: lambda step, denoised, x, total: shown.append((step, denoised.clone(), x.clone(), total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: sent.append((value, total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 24))
    out = run(model, guidance, regions_per_call=2)
    assert [(step, total) for step, *_, total in shown] == [(i, 4) for i in range(4)]
    for _, denoised, x, _ in shown:
        assert denoised.shape == x.shape == guidance.shape and denoised.isfinite().all()
    # the canvas after the last sweep is the result; only rings are averages of several predictions
    assert torch.equal(model.model.process_latent_out(shown[-1][2]), out)
    patches = sum(len(sweep.patches) for sweep in plan(16, 24, 8, 4, 2, 5))
    assert sent[-1] == (patches, patches) and [value for value, _ in sent] == sorted(value for value, _ in sent)
    assert max(b - a for (a, _), (b, _) in zip(sent, sent[1:])) <= 2


def test_memory_is_asked_for_one_batch_of_patches(monkeypatch):
    asked = []
    model = tiny.sdxl()
    required = model.model.memory_required
    monkeypatch.setattr(model.model, "memory_required", lambda shape, **kwargs: asked.append(list(shape)) or required(shape, **kwargs))
    run(model, latent_of(model, 1, 32, 40), steps=1, guided_steps=1, regions_per_call=3)
    assert asked[0] == [6, 4, 8, 8]


def test_models_with_patches_of_a_whole_canvas_are_refused():
    model, guidance = tiny.sdxl(), tiny.noise((1, 4, 16, 24))
    with pytest.raises(ValueError, match="model carries Regional Denoise, which.*from before"):
        run(with_parts(model, RegionalDenoise((4, 4))), guidance)
    with pytest.raises(ValueError, match="model carries DemoFusion.s skip residual"):
        run(with_parts(model, SkipResidual(guidance)), guidance)


def test_scaled_noise_is_refused():
    model = tiny.flux()
    model.model.model_sampling.noise_scale = 8.0
    with pytest.raises(ValueError, match="scaled noise"):
        run(model, latent_of(model, 1, 16, 16))


def test_a_canvas_smaller_than_a_patch_is_refused_by_axis():
    with pytest.raises(ValueError, match="canvas width is 24 latent cells and patch_size 32"):
        run(tiny.sdxl(), tiny.noise((1, 4, 40, 24)), patch_size=32)


def test_node():
    model, guidance = tiny.sdxl(), {"samples": tiny.noise((1, 4, 16, 24)), "batch_index": [2], "noise_mask": torch.ones(1, 128, 192)}
    settings = {"preset": "custom", "guided_until": 0.25, "steps": 3, "strength": 0.75, "cfg": 4.0, "seed": 2**64 - 1, "patch_size": 64, "guided_steps": 0, "order": "random", "scheduler": "ddim (paper)", "size_conditioning": "canvas", "regions_per_call": 0}
    assert list(settings) == [entry.id for entry in PixelSmithSampler.define_schema().inputs][4:]
    (out,) = PixelSmithSampler.execute(model, tiny.conditioning(1), tiny.conditioning(2), guidance, **settings).args
    sigmas = paper_schedule(model.model.model_sampling, 4, 3)
    expected = sample(model, tiny.conditioning(1), tiny.conditioning(2), guidance["samples"], sigmas, 2, 4.0, 2**64 - 1, 8, batch_index=[2])
    assert tiny.relative(out["samples"], expected) < 1e-5
    assert out["batch_index"] == [2] and "noise_mask" in out and out["samples"].shape == guidance["samples"].shape
    (counted,) = PixelSmithSampler.execute(model, tiny.conditioning(1), tiny.conditioning(2), guidance, **{**settings, "guided_until": 1.0, "guided_steps": 2}).args
    assert torch.equal(counted["samples"], out["samples"])
    (out,) = PixelSmithSampler.execute(model, tiny.conditioning(1), tiny.conditioning(2), guidance, **{**settings, "order": "cover", "strength": 1.0}).args
    assert out["samples"].isfinite().all()
    with pytest.raises(ValueError, match="guided_steps is 4; it counts steps from the first, so use 1 to 3"):
        PixelSmithSampler.execute(model, tiny.conditioning(1), tiny.conditioning(2), guidance, **{**settings, "guided_steps": 4})


@pytest.mark.parametrize("enabled", [True, False])
def test_the_console_counts_the_patches(monkeypatch, capsys, enabled):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", enabled)
    model = tiny.sdxl()
    guidance = latent_of(model, 1, 16, 16)
    run(model, guidance)
    patches = sum(len(sweep.patches) for sweep in plan(16, 16, 8, 4, 2, 5, "random"))
    assert (f"{patches}/{patches}" in capsys.readouterr().err) == enabled
