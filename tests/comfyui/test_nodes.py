import asyncio
import sys

import comfy.model_sampling
import comfy.samplers
import comfy.utils
import pytest
import tiny
import torch
from loupe.engine.sigmas import PAPER_SCHEDULE, levels_of, nearest_step, schedule
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.regions import RegionLayout
from loupe.methods.schedules import ddim_timesteps, sd_ratio, start_for
from loupe.nodes.demofusion import DemoFusion, DemoFusionSampler
from loupe.nodes.regional_denoise import RegionalDenoiseNode
from loupe.patches.demofusion_sampler import phase_sizes, sample_demofusion
from loupe.patches.regional_denoise import RegionalDenoise
from widgets import defaults


def run(node, **values):
    return node.execute(**defaults(node, **values)).result[0]


REFERENCE = {"samples": tiny.noise((1, 4, 8, 8), 5)}
SMALL = {"region_width": 64, "region_height": 64}


def test_the_pack_declares_its_nodes():
    pack = sys.modules["loupe"]
    pack.__spec__.loader.exec_module(pack)
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    ids = [node.GET_SCHEMA().node_id for node in nodes]
    assert len(ids) == len(set(ids))
    assert {"LoupeRegionalDenoise", "LoupeDemoFusion", "LoupeDemoFusionSampler"} <= set(ids)
    for node in nodes:
        schema = node.GET_SCHEMA()
        assert schema.node_id.startswith("Loupe") and schema.category.startswith("Loupe/") and schema.description
        assert not {i.id for i in schema.inputs} & {o.id for o in schema.outputs}
        widgets = [i for i in schema.inputs if hasattr(i, "default")]
        assert all(i.tooltip for i in widgets), schema.node_id
        node.INPUT_TYPES()


def test_regional_denoise_takes_widgets_or_a_layout():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 16))
    by_widgets = run(RegionalDenoiseNode, model=model, **SMALL, jitter_seed=4)
    layout = RegionLayout.from_overlap(8, 16, 8, 8, 0.25, "gaussian")
    by_layout = run(RegionalDenoiseNode, model=model, regions=layout, jitter_seed=4)
    assert torch.equal(tiny.sample(by_widgets, latent), tiny.sample(by_layout, latent))


@pytest.mark.numerics
@pytest.mark.parametrize("mode", ["progressive", "direct"])
def test_the_sampler_is_the_patches_before_a_stock_sampler(mode):
    """Its last phase, run again with the two patch nodes and Euler."""
    # SDXL would be told the final size in every phase
    model = tiny.sd15() if mode == "progressive" else tiny.sdxl()
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    args = {"model": model, "positive": positive, "negative": negative, "reference": REFERENCE, "steps": 3, "strength": 0.75, "seed": 11, "cfg": 3.0, "mode": mode, **SMALL}
    full = run(DemoFusionSampler, **args, scale_by=3.0, size_conditioning="native")["samples"]
    assert full.shape == (1, 4, 24, 24)

    before, phase = (REFERENCE, 0) if mode == "direct" else (run(DemoFusionSampler, **args, scale_by=2.0), 1)
    guidance = torch.nn.functional.interpolate(before["samples"], size=(24, 24), mode="bicubic")
    patched = run(DemoFusion, model=model, reference=REFERENCE, guide={"samples": guidance})
    patched = run(RegionalDenoiseNode, model=patched, **SMALL, overlap=0.5, blend="uniform", jitter_seed=11, jitter_until=1.0, size_conditioning="native")
    sigmas = schedule(model, PAPER_SCHEDULE, 3, 0.75)
    noise = seeded_noise(guidance.shape, stream(11, f"DemoFusion phase {phase}"))
    again = tiny.sample(patched, guidance, cfg=3.0, positive=positive, negative=negative, sigmas=sigmas, noise_tensor=noise)
    assert tiny.relative(again, full) < 1e-5


@pytest.mark.numerics
def test_the_sampler_s_batch_holds_the_same_images():
    reference = tiny.noise((2, 4, 8, 8), 5)
    args = {"model": tiny.sdxl(), "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "steps": 2, "mode": "direct", **SMALL}
    both = run(DemoFusionSampler, **args, reference={"samples": reference})["samples"]
    for i in range(2):
        alone = run(DemoFusionSampler, **args, reference={"samples": reference[i : i + 1], "batch_index": [i], "noise_mask": torch.ones(1, 8, 8)})
        assert tiny.relative(alone["samples"], both[i : i + 1]) < 1e-4
        assert alone["batch_index"] == [i] and "noise_mask" in alone


def test_the_sampler_enlarges_with_the_lsr_and_adds_noise_at_edges():
    class Recorder:
        def __init__(self):
            self.sizes = []

        def upscale(self, samples, height, width, socket):
            self.sizes.append((height, width))
            return comfy.utils.common_upscale(samples, width, height, "nearest-exact", "disabled")

        def decode(self, samples):
            image = torch.zeros(1, 64, 64, 3)
            image[:, 16:48, 16:48] = 1
            return image

    recorder, model = Recorder(), tiny.sdxl()
    args = {"model": model, "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "reference": REFERENCE, "steps": 2, **SMALL}
    plain = run(DemoFusionSampler, **args, mode="direct", lsr=recorder)["samples"]
    noised = run(DemoFusionSampler, **args, mode="direct", lsr=recorder, vae=recorder, noise_edges=1.2)["samples"]
    without = run(DemoFusionSampler, **args, mode="direct", lsr=recorder, vae=recorder, noise_edges=0.0)["samples"]
    assert torch.equal(plain, without)
    assert not torch.allclose(plain, noised, rtol=1e-2)
    run(DemoFusionSampler, **args, mode="progressive", scale_by=3.0, lsr=recorder)
    assert recorder.sizes == [(16, 16)] * 3 + [(16, 16), (24, 24)]


def test_the_noise_at_edges_goes_with_the_start(monkeypatch):
    added = []

    def add_region_noise(model, latent, reference, e_min, e_max, **settings):
        added.append((e_min, e_max))
        return latent, None

    class VAE:
        def decode(self, samples):
            return torch.rand(1, 64, 64, 3)

    class Same:
        def upscale(self, samples, height, width, socket):
            return samples

    monkeypatch.setattr("loupe.nodes.demofusion.add_region_noise", add_region_noise)
    monkeypatch.setattr("loupe.nodes.demofusion.sample_demofusion", lambda *args, enlarge, **settings: enlarge(REFERENCE["samples"], (16, 16)))
    args = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "mode": "direct", "vae": VAE(), "lsr": Same(), "noise_flat": 0.5, "noise_edges": 1.2}
    run(DemoFusionSampler, model=tiny.sdxl(), reference=REFERENCE, **args, steps=30, strength=0.6)
    run(DemoFusionSampler, model=tiny.sdxl(), reference=REFERENCE, **args, steps=4, strength=1.0, scheduler="simple")
    run(DemoFusionSampler, model=tiny.flux(), reference={"samples": tiny.noise((1, 16, 8, 8))}, **args, steps=4, strength=0.4)
    factor = start_for(0.4) / sd_ratio(581)
    assert added == [(0.5, 1.2), (0.5, 1.2), pytest.approx((0.5 * factor, 1.2 * factor), rel=1e-5)]


def test_previews_show_the_whole_canvas_and_count_over_all_phases(monkeypatch):
    seen = []

    def prepare_callback(model, steps):
        return lambda step, denoised, x, total: seen.append((step, total, steps, tuple(denoised.shape)))

    monkeypatch.setattr("latent_preview.prepare_callback", prepare_callback)
    sample_demofusion(tiny.sdxl(), tiny.conditioning(1), tiny.conditioning(2), REFERENCE["samples"], [(16, 16), (24, 24)], torch.tensor([5.0, 1.0, 0.0]), 3.0, 0, RegionalDenoise((8, 8)))
    assert seen == [(i, 4, 4, (1, 4, side, side)) for i, side in enumerate((16, 16, 24, 24))]


def test_phase_sizes():
    assert phase_sizes((128, 128), (512, 512), True) == [(256, 256), (384, 384), (512, 512)]
    assert phase_sizes((128, 128), (512, 512), False) == [(512, 512)]
    assert phase_sizes((96, 128), (240, 320), True) == [(160, 213), (240, 320)]
    assert phase_sizes((128, 128), (128, 128), True) == [(128, 128)]


def test_schedules():
    model = tiny.sdxl()
    table = model.model.model_sampling.sigmas
    paper = schedule(model, PAPER_SCHEDULE, 30, 0.6, end_at_zero=False)
    assert torch.equal(paper[:-1], table[ddim_timesteps(50, 30)]) and paper[-1] == table[0] and paper[0] == table[581]
    for name in comfy.samplers.SCHEDULER_NAMES:
        sigmas = schedule(model, name, 6, 0.6)
        assert sigmas[-1] == 0 and len(sigmas) == 7
        assert torch.equal(schedule(model, name, 6, 0.6, end_at_zero=False)[:-1], sigmas[:-1])


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_paper_s_grid_reads_as_its_own_timesteps(name):
    model = tiny.MODELS[name]()
    sigmas = schedule(model, PAPER_SCHEDULE, 30, 0.6)
    times = [levels_of(model.model.model_sampling).timestep(float(sigma)) for sigma in sigmas[:-1]]
    assert times == sorted(times, reverse=True)
    if name in ("sdxl", "sdxl_v", "sd15"):
        assert times == ddim_timesteps(50, 30)
    assert [nearest_step(sigmas.tolist(), float(sigma)) for sigma in sigmas[:-1]] == list(range(30))


def test_models_without_a_table_of_timesteps_are_read_on_stable_diffusion_s():
    sampling = comfy.model_sampling.ModelSamplingContinuousEDM()
    sigma = float(comfy.model_sampling.ModelSamplingDiscrete().sigmas[581])
    assert levels_of(sampling).timestep(sigma) == 581


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reference": {"samples": torch.zeros(1, 16, 8, 8)}}, "reference has 16 channels, the model's latents have 4.*this model's VAE"),
        ({"reference": {"samples": torch.zeros(1, 4, 64)}}, "reference is a packed or nested latent"),
        ({"width": 32, "height": 64}, "target is 32x64 pixels.*64x64.*Raise width"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"noise_flat": 2.0, "noise_edges": 1.2}, "noise_flat is 2.0 and noise_edges 1.2"),
    ],
)
def test_the_sampler_names_what_is_wrong(change, message):
    class VAE:
        def decode(self, samples):
            return torch.rand(1, 64, 64, 3)

    args = {"model": tiny.sdxl(), "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "reference": REFERENCE, "mode": "direct", "vae": VAE(), "steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        run(DemoFusionSampler, **args)


def test_demofusion_names_the_latent_that_does_not_fit():
    with pytest.raises(ValueError, match="guide has 16 channels"):
        run(DemoFusion, model=tiny.sdxl(), reference=REFERENCE, guide={"samples": torch.zeros(1, 16, 8, 8)})


@pytest.mark.numerics
def test_dilation_one_and_full_hold_change_nothing_else():
    """dilation 1 and a hold that is gone at once leave the stock run."""
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    patched = run(DemoFusion, model=model, reference=REFERENCE, dilation=1, skip_exponent=100.0, renormalize=False)
    assert tiny.relative(tiny.sample(patched, latent, sigmas=sigmas), tiny.sample(model, latent, sigmas=sigmas)) < 1e-5


@pytest.mark.parametrize("mode", ["progressive", "direct"])
def test_the_sampler_keeps_what_a_noise_mask_keeps(mode):
    """The kept half is the enlarged reference, at every size; the other is drawn."""
    model, mask = tiny.sd15(), torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    args = {"model": model, "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "steps": 3, "mode": mode, "scale_by": 2.0, **SMALL}
    out = run(DemoFusionSampler, **args, reference={**REFERENCE, "noise_mask": mask})
    enlarged = torch.nn.functional.interpolate(REFERENCE["samples"], size=(16, 16), mode="bicubic")
    change = (out["samples"] - enlarged).abs()
    assert change[..., :7].max() < 1e-3 < change[..., 9:].mean()
    assert out["noise_mask"] is mask
