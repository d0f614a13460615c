"""Noise that the pack draws is independent of ComfyUI's and of its other draws, at equal seeds."""

import itertools

import comfy.sample
import loupe.patches.attention_prior
import loupe.patches.demofusion_sampler
import loupe.patches.inject_noise
import loupe.patches.pixelsmith
import loupe.patches.region_noise
import pytest
import tiny
import torch
from loupe.engine.evaluation import with_parts
from loupe.methods.noise import seeded_noise, stream
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.pixelsmith import PixelSmithSampler
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.inject_noise import InjectNoise
from loupe.patches.region_noise import add_region_noise
from widgets import defaults

SHAPE = (1, 4, 16, 24)
SEEDS = (0, 1, 12345, 2**64 - 1)


def correlation(a, b):
    """Largest over all shifts along a row, so that one stream read a little later is found too."""
    a, b = (x.flatten()[: min(a.numel(), b.numel())] for x in (a, b))
    spectrum = torch.fft.rfft(a / a.norm()) * torch.fft.rfft(b / b.norm()).conj()
    return float(torch.fft.irfft(spectrum, len(a)).abs().max())


@pytest.fixture
def drawn(monkeypatch):
    """All noise that methods draw, by the file that draws it."""
    found = {}
    for module in (loupe.patches.attention_prior, loupe.patches.inject_noise, loupe.patches.pixelsmith, loupe.patches.region_noise, loupe.patches.demofusion_sampler):

        def draw(*args, name=module.__name__.rsplit(".", 1)[1]):
            noise = seeded_noise(*args)
            found[f"{name} {len(found)}"] = noise
            return noise

        monkeypatch.setattr(module, "seeded_noise", draw)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_every_node_at_one_seed_draws_noise_of_its_own(seed, drawn):
    model, latent = tiny.sdxl(), tiny.noise(SHAPE, 3) * 0.5
    add_region_noise(model, latent, torch.rand(1, 32, 48, 3), 0.5, 0.5, seed)
    for noise in ("fixed", "fresh"):
        tiny.sample(with_parts(model, AttentionPrior(latent, noise=noise, seed=seed)), latent, steps=2)
    tiny.sample(with_parts(model, InjectNoise(last_steps=2, seed=seed)), latent, steps=2)
    prompts = tiny.conditioning(1), tiny.conditioning(2)
    DemoFusionSampler.execute(**defaults(DemoFusionSampler) | {"model": model, "positive": prompts[0], "negative": prompts[1], "reference": {"samples": latent[..., :8, :12]}, "scale_by": 3.0, "steps": 1, "seed": seed, "region_width": 128, "region_height": 128})
    PixelSmithSampler.execute(**defaults(PixelSmithSampler) | {"model": model, "positive": prompts[0], "negative": prompts[1], "guide": {"samples": latent}, "steps": 2, "guided_steps": 1, "seed": seed, "patch_size": 128})

    # RNA, the prior's fixed noise and two fresh ones, two injected, two phases of DemoFusion, PixelSmith
    names = sorted({name.split()[0] for name in drawn})
    assert names == ["attention_prior", "demofusion_sampler", "inject_noise", "pixelsmith", "region_noise"] and len(drawn) >= 9
    drawn["ComfyUI's"] = comfy.sample.prepare_noise(torch.zeros(SHAPE), seed)
    drawn["ComfyUI's, next seed"] = comfy.sample.prepare_noise(torch.zeros(SHAPE), (seed + 1) % 2**64)
    for (a, first), (b, second) in itertools.combinations(drawn.items(), 2):
        assert correlation(first, second) < 0.2, f"{a} is {b}"


def test_the_same_seed_and_purpose_draw_the_same():
    assert stream(5, "a") == stream(5, "a") != stream(5, "b") != stream(6, "b")
    assert all(0 <= stream(seed, "a") < 2**53 for seed in SEEDS)
    assert len({stream(seed, purpose) for seed in range(100) for purpose in ("a", "b", "a1")}) == 300
    assert torch.equal(seeded_noise(SHAPE, stream(5, "a")), seeded_noise(SHAPE, stream(5, "a")))


def test_region_noise_adds_up_with_the_sampler_s():
    """Equation 5: sigma and e of independent noise give sqrt(sigma^2 + e^2), not their sum."""
    model, latent, sigma, e = tiny.sdxl(), torch.zeros(1, 4, 64, 64), 2.135, 1.2
    noised, _ = add_region_noise(model, latent, torch.rand(1, 64, 64, 3), e, e, 0)
    state = model.model.process_latent_in(noised) + sigma * comfy.sample.prepare_noise(latent, 0)
    assert abs(float(state.std()) - (sigma**2 + e**2) ** 0.5) < 0.05
