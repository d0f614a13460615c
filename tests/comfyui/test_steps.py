"""A step is a step, whoever samples: samplers that tell the network other noise levels, runs split between two samplers,
samplers that evaluate latents of another size, and both outputs of a custom sampler."""

import comfy.samplers
import pytest
import tiny
import torch
from comfy.k_diffusion.sampling import to_d
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from loupe.engine import Part
from loupe.engine.evaluation import with_parts
from loupe.engine.step_edits import Edits
from loupe.methods.regions import RegionLayout
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.demofusion import Renormalize, SkipResidual
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.inject_noise import InjectNoise
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior

LATENT, SMALL = tiny.noise((1, 4, 16, 24), 3) * 0.5, tiny.noise((1, 4, 8, 12), 4) * 0.5
PROMPTS = tuple(tiny.conditioning(seed, width=192, height=128) for seed in (1, 2))
ADJUSTMENT = {"alpha": 0.1, "beta": 0.05, "early_end": 0.4, "late_start": 0.6}


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((16, 16), **settings))


METHODS = {
    "none": lambda model: model,
    "regions": regional,
    "regions with jitter": lambda model: regional(model, jitter=True),
    "DemoFusion": lambda model: patch_demofusion(model, SMALL),
    "DemoFusion renormalized": lambda model: patch_demofusion(model, SMALL, renormalize=True),
    "Structure Prior": lambda model: with_parts(model, StructurePrior(SMALL, 0.5)),
    "Latent Adjustment": lambda model: with_parts(model, LatentAdjustment(SMALL, **ADJUSTMENT)),
    "Latent Adjustment of predictions": lambda model: with_parts(model, LatentAdjustment(SMALL, **{**ADJUSTMENT, "alpha": 0.3, "beta": 0.15}, target="denoised")),
    "Inject Noise": lambda model: with_parts(model, InjectNoise(0.2, 3)),
    "Attention Prior, fresh noise": lambda model: with_parts(regional(model), AttentionPrior(SMALL, noise="fresh")),
}


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def sampled(model, sampler="euler", sigmas=None, latent=LATENT, noise=None, seed=5, denoise=0.7, steps=8, cfg=3.0, **kwargs):
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    if sigmas is None:
        sigmas = comfy.samplers.KSampler(model, steps, torch.device("cpu"), "euler", "normal", denoise).sigmas
    noise = tiny.noise(latent.shape, seed) if noise is None else noise
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, *PROMPTS, latent, disable_pbar=True, seed=seed, **kwargs)


# Noise levels that the network is told


def telling(share, name="euler", report=True):
    """A sampler whose network is told share(step) of each noise level, as detail-adding wrappers do."""
    inner = comfy.samplers.sampler_object(name).sampler_function

    def sample(model, x, sigmas, callback=None, **kwargs):
        step = [0]

        class Told:
            def __getattr__(self, name):
                return getattr(model, name)

            def __call__(self, x, sigma, **args):
                out = model(x, sigma * share(step[0]), **args)
                step[0] += 1
                return out

        return inner(Told(), x, sigmas, callback=callback if report else None, **kwargs)

    return comfy.samplers.KSAMPLER(sample)


@pytest.mark.parametrize(("less", "steps"), [(1e-4, 8), (-1e-2, 8), (1e-2, 24)])
@pytest.mark.parametrize("name", METHODS)
def test_a_little_less_noise_changes_a_little(name, less, steps, sdxl):
    model = METHODS[name](sdxl)
    usual, change = (tiny.relative(sampled(one, telling(lambda step: 1 - less), steps=steps), sampled(one, steps=steps)) for one in (sdxl, model))
    assert change < 3 * usual + 0.01


@pytest.mark.parametrize("report", [True, False])
def test_edits_follow_a_shift_that_grows_with_the_steps(report):
    """Up to a third of the noise, over steps that lie closer than that; also of a sampler that reports no steps."""
    levels = []

    class Edit(Part):
        key, rank = "edit", 0

        def edits(self, run):
            return Edits(before=lambda x, sigma, step: levels.append(sigma))

    sigmas = torch.linspace(3, 1, 31)
    sampled(with_parts(tiny.sdxl(), Edit()), telling(lambda step: 1 - step / 90, report=report), sigmas)
    torch.testing.assert_close(torch.tensor(levels), sigmas[:-1])


@pytest.mark.parametrize("name", [name for name in METHODS if "Prior" in name or "Latent" in name or "DemoFusion" in name])
def test_a_sampler_that_reports_no_steps_but_evaluates_each(name, sdxl):
    model = METHODS[name](sdxl)
    assert torch.equal(sampled(model, telling(lambda step: 1.0, report=False)), sampled(model))


def test_a_sampler_whose_steps_cannot_be_told_is_refused(sdxl):
    heun = telling(lambda step: 1.0, "heun", report=False)
    with pytest.raises(ValueError, match="The sampler sample cannot carry Structure Prior: it does not report every step. Choose euler"):
        sampled(METHODS["Structure Prior"](sdxl), heun)
    sampled(METHODS["regions"](sdxl), heun)


@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2s_ancestral", "seeds_3", "dpmpp_2m", "euler"])
def test_stages_between_two_levels_are_no_steps(name):
    levels = []

    class Edit(Part):
        key, rank = "edit", 0

        def edits(self, run):
            return Edits(before=lambda x, sigma, step: levels.append(sigma))

    sigmas = torch.tensor([3.0, 2.0, 1.2, 0.7])
    sampled(with_parts(tiny.sdxl(), Edit()), name, sigmas)
    assert levels == sigmas[:-1].tolist()


# Runs split between two samplers


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("Latent")])  # its boundaries are fractions of a run
def test_two_samplers_are_one(name, sdxl):
    model = METHODS[name](sdxl)
    sigmas = comfy.samplers.KSampler(sdxl, 12, torch.device("cpu"), "euler", "normal", 1.0).sigmas[4:]
    noise = comfy.sample.prepare_noise(LATENT, 5)
    whole = sampled(model, sigmas=sigmas, noise=noise)
    half = sampled(model, sigmas=sigmas[:5], noise=noise)
    rest = sampled(model, sigmas=sigmas[4:], noise=torch.zeros_like(noise), latent=half)
    assert tiny.relative(rest, whole) < 1e-4


def test_demofusion_refuses_a_second_sampler_with_another_seed(sdxl):
    """Its residual needs the noise that is in the latent; with an empty latent there is none to miss."""
    model = patch_demofusion(sdxl, SMALL)
    sigmas = comfy.samplers.KSampler(sdxl, 12, torch.device("cpu"), "euler", "normal", 1.0).sigmas[4:]
    half = sampled(model, sigmas=sigmas[:5], noise=comfy.sample.prepare_noise(LATENT, 5))
    with pytest.raises(ValueError, match="adds no noise, and its seed 77 .*Use the seed of the sampler before"):
        sampled(model, sigmas=sigmas[4:], noise=torch.zeros_like(LATENT), latent=half, seed=77)
    assert sampled(model, sigmas=sigmas, noise=torch.zeros_like(LATENT), latent=torch.zeros_like(LATENT), seed=77).isfinite().all()


# Latents of another size


@torch.no_grad()
def sample_thinned(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler with a correction from every second cell, evaluated by itself, and from an enlarged latent."""
    ones = x.new_ones([len(x)])
    for i, sigma in enumerate(sigmas[:-1]):
        denoised = model(x, sigma * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = x + to_d(x, sigma, denoised) * (sigmas[i + 1] - sigma)
        if i == 1:
            thin = x[..., ::2, ::2]
            x = x.clone()
            x[..., ::2, ::2] = thin + 0.01 * (model(thin, sigma * ones, **extra_args) - thin)
            large = torch.nn.functional.interpolate(x, scale_factor=1.5)
            x = x + 0.01 * torch.nn.functional.interpolate(model(large, sigma * ones, **extra_args), x.shape[-2:])
    return x


@pytest.mark.parametrize("name", METHODS)
def test_a_sampler_that_evaluates_other_sizes(name, sdxl):
    """Edits are of the run's own latent; regions and views fit the size at hand."""
    out = sampled(METHODS[name](sdxl), comfy.samplers.KSAMPLER(sample_thinned))
    assert out.isfinite().all()
    assert tiny.relative(out, sampled(METHODS[name](sdxl))) < 0.3


def test_a_layout_of_the_canvas_says_that_the_sampler_leaves_it(sdxl):
    model = regional(sdxl, layout=RegionLayout.from_overlap(16, 24, 16, 16))
    with pytest.raises(ValueError, match="sampler evaluates latents of 12 x 8 cells"):
        sampled(model, comfy.samplers.KSAMPLER(sample_thinned))


# Both outputs


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("name", METHODS)
def test_denoised_output_is_the_output_at_the_end_of_a_run(name, sampler, sdxl):
    model, latent = METHODS[name](sdxl), {"samples": LATENT}

    def of(node, *args):
        return node.execute(*args).result

    sigmas = of(BasicScheduler, model, "normal", 6, 0.7)[0]
    guider = of(CFGGuider, model, *PROMPTS, 3.0)[0]
    sampler = of(KSamplerSelect, sampler)[0]
    out, denoised = of(SamplerCustomAdvanced, of(RandomNoise, 5)[0], guider, sampler, sigmas, latent)[:2]
    assert tiny.relative(denoised["samples"], out["samples"]) < 1e-4
    out, denoised = of(SamplerCustom, model, True, 5, 3.0, *PROMPTS, sampler, sigmas, latent)[:2]
    assert tiny.relative(denoised["samples"], out["samples"]) < 1e-4


def test_a_run_that_stops_early_reports_its_prediction(sdxl):
    """Renormalize waits for the end; the adjustment of the last step acts on what is reported as on the state."""
    sigmas, seen = torch.tensor([3.0, 2.0, 1.0]), {}

    def run(model):
        sampled(model, sigmas=sigmas, callback=lambda step, denoised, x, total: seen.__setitem__(step, denoised.clone()))
        return seen[1]

    plain = run(sdxl)
    assert torch.equal(run(with_parts(sdxl, Renormalize(SMALL))), plain)
    adjusted = run(with_parts(sdxl, LatentAdjustment(SMALL, 0.0, 0.05, 0.0, 0.5, boundaries="steps")))
    reference = sdxl.model.process_latent_in(torch.nn.functional.interpolate(SMALL, (16, 24), mode="bicubic"))
    torch.testing.assert_close(adjusted, torch.lerp(plain, reference, -0.05), rtol=1e-4, atol=1e-4)


def test_skip_residual_is_told_the_level_of_the_state(sdxl):
    """Not what the network is told: exponent 0 sets the state to the reference at that level after each step."""
    seen = []

    class Watch(Part):
        key, rank = "watch", 1

        def edits(self, run):
            return Edits(before=lambda x, sigma, step: seen.append((x.clone(), sigma)))

    noise = tiny.noise(LATENT.shape, 5)
    sigmas = torch.tensor([3.0, 2.0, 1.0, 0.0])
    model = with_parts(sdxl, SkipResidual(SMALL, 0.0), Watch())
    sampled(model, telling(lambda step: 0.97), sigmas, noise=noise)
    reference = sdxl.model.process_latent_in(torch.nn.functional.interpolate(SMALL, (16, 24), mode="bicubic"))
    assert [level for _, level in seen] == sigmas[:-1].tolist()
    for (x, level), sigma in list(zip(seen, sigmas))[1:]:
        torch.testing.assert_close(x, reference + sigma * noise, rtol=1e-4, atol=1e-4)
