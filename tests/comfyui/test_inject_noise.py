import math

import gaussian
import pytest
import tiny
import torch
from loupe.engine.evaluation import with_parts
from loupe.methods.inject_noise import slerp
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.schedules import Levels, sd_ratio
from loupe.nodes.inject_noise import InjectNoiseNode
from loupe.patches.inject_noise import InjectNoise
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior
from tolerance import close

pytestmark = pytest.mark.numerics

RHO = sd_ratio(249)
IMAGE, NOISE = gaussian.image(1), tiny.noise(gaussian.image(1).shape, 7)
GUIDE = gaussian.enlarged(gaussian.small(IMAGE))
SHALLOW = [RHO, 0.0]


def node(model, weight=0.05, last_steps=1, seed=0):
    return InjectNoiseNode.execute(model, weight, last_steps, seed).result[0]


def knowing(kind):
    """A network that knows the image."""
    return gaussian.model(kind, lambda y, rho: IMAGE.to(y))


def fresh(seed, rho):
    return seeded_noise((1, *IMAGE.shape[1:]), stream(seed, f"inject noise {Levels().name(rho)}"))


@pytest.mark.parametrize("kind", gaussian.KINDS)
def test_one_step_leaves_the_paper_s_share_of_noise(kind):
    out = gaussian.sample(node(knowing(kind)), SHALLOW, IMAGE, NOISE) - IMAGE
    assert gaussian.rms(out) == pytest.approx(RHO * math.sin(0.05 * math.pi / 2), rel=0.02)
    assert gaussian.rms(gaussian.sample(knowing(kind), SHALLOW, IMAGE, NOISE) - IMAGE) < 1e-5


def test_one_step_written_out():
    state = GUIDE + RHO * NOISE
    denoised = gaussian.posterior_mean(state, RHO)
    expected = state - RHO * slerp((state - denoised) / RHO, fresh(3, RHO), 0.05)
    close(gaussian.sample(node(gaussian.model("flow"), seed=3), SHALLOW, GUIDE, NOISE), expected, 1e-5)


@pytest.mark.parametrize("levels", [SHALLOW, [sd_ratio(249), sd_ratio(124), 0.0], gaussian.even(420, 4)])
@pytest.mark.parametrize("last_steps", [1, 3])
@pytest.mark.parametrize("kind", ["v", "flow"])
def test_every_prediction_gives_the_same_image(kind, last_steps, levels):
    plain, of_eps, other = (
        gaussian.sample(model, levels, GUIDE, NOISE)
        for model in (gaussian.model("eps"), node(gaussian.model("eps"), last_steps=last_steps), node(gaussian.model(kind), last_steps=last_steps))
    )
    effect = gaussian.rms(of_eps - plain)
    assert effect > 5e-3
    assert gaussian.rms(other - of_eps) < 1e-4 * effect


def test_only_the_last_steps_are_changed():
    """A run is its first part, and the last step from there."""
    model, levels = gaussian.model("flow"), gaussian.even(420, 4)
    middle = gaussian.sample(model, levels[:-1], GUIDE, NOISE)
    last = gaussian.sample(node(model), levels[-2:], middle, torch.zeros_like(NOISE))
    close(gaussian.sample(node(model), levels, GUIDE, NOISE), last, 1e-5)
    one, two = (gaussian.sample(node(model, last_steps=steps), levels, GUIDE, NOISE) for steps in (1, 2))
    assert tiny.relative(one, two) > 1e-4


def test_a_run_that_stops_early_is_left_to_the_next(caplog):
    model, levels = gaussian.model("eps"), gaussian.even(420, 4)
    with caplog.at_level("WARNING"):
        out = gaussian.sample(node(model, last_steps=2), levels[:-1], GUIDE, NOISE)
    assert torch.equal(out, gaussian.sample(model, levels[:-1], GUIDE, NOISE))
    assert "Inject Noise changed nothing: the run stops before its noise is gone" in caplog.text


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "lcm"])
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_the_last_step_of_any_sampler_leaves_as_much(kind, sampler):
    levels = [sd_ratio(499), RHO, 0.0]
    out = gaussian.sample(node(knowing(kind)), levels, IMAGE, NOISE, sampler) - IMAGE
    assert gaussian.rms(out) == pytest.approx(RHO * math.sin(0.05 * math.pi / 2), rel=0.03)


@pytest.mark.parametrize("sampler", ["uni_pc", "dpm_fast", "sa_solver"])
def test_samplers_that_cannot_be_edited_are_refused(sampler):
    with pytest.raises(ValueError, match=f"sampler {sampler} cannot carry Inject Noise"):
        tiny.sample(node(tiny.sdxl()), tiny.noise((1, 4, 8, 8)), sampler)


def test_off_changes_no_bit_and_a_cached_model_repeats_itself():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    for sampler in ("dpmpp_2m", "uni_pc"):
        assert torch.equal(tiny.sample(node(model, 0.0, 3), latent, sampler), tiny.sample(model, latent, sampler))
    on = node(model)
    first = tiny.sample(on, latent, "dpmpp_2m")
    assert torch.equal(first, tiny.sample(on, latent, "dpmpp_2m"))
    assert not torch.equal(first, tiny.sample(model, latent, "dpmpp_2m"))
    assert not torch.equal(first, tiny.sample(node(model, seed=1), latent, "dpmpp_2m"))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_batch_is_its_singles(name):
    model = tiny.MODELS[name]()
    latents = tiny.noise((2, model.model.latent_format.latent_channels, 8, 8))
    noise = tiny.noise(latents.shape, 7)
    sigmas = torch.tensor([0.5, 0.3, 0.0])
    both = tiny.sample(node(model, last_steps=2), latents, sigmas=sigmas, noise_tensor=noise)
    for i in range(2):
        close(both[i : i + 1], tiny.sample(node(model, last_steps=2), latents[i : i + 1], sigmas=sigmas, noise_tensor=noise[i : i + 1]), 2e-5)


def test_regions_in_one_call_and_in_either_order():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 16, 24))

    def sample(*parts):
        return tiny.sample(with_parts(model, *parts), latent, steps=2, denoise=0.3)

    apart, stacked = (sample(RegionalDenoise((8, 8), 0.25, "gaussian", regions_per_call=count), InjectNoise()) for count in (1, 4))
    close(stacked, apart, 2e-5)
    assert torch.equal(sample(InjectNoise(), RegionalDenoise((8, 8), 0.25, "gaussian", regions_per_call=1)), apart)
    prior = StructurePrior(tiny.noise((1, 4, 8, 12), 3))
    assert torch.equal(sample(prior, InjectNoise()), sample(InjectNoise(), prior))
    assert torch.equal(sample(InjectNoise(0.5, 2, 9), InjectNoise()), sample(InjectNoise()))


def test_the_kept_part_of_a_mask_stays():
    model, latent, mask = tiny.sdxl(), tiny.noise((1, 4, 8, 8)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    plain = tiny.sample(model, latent, noise_mask=mask)
    out = tiny.sample(node(model, 0.3), latent, noise_mask=mask)
    assert torch.equal(out[..., 4:], plain[..., 4:])
    assert not torch.allclose(out[..., :4], plain[..., :4], rtol=1e-3)


def test_videos():
    model, latent = tiny.wan(), tiny.noise((1, 16, 2, 8, 8))
    out = tiny.sample(node(model), latent, steps=2, denoise=0.3)
    assert out.shape == latent.shape and out.isfinite().all() and not torch.equal(out, tiny.sample(model, latent, steps=2, denoise=0.3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.5}, "weight is 1.5; expected 0.0 to 1.0"),
        ({"weight": -0.05}, "weight is -0.05"),
        ({"last_steps": 0}, "last_steps is 0; expected 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        node(tiny.sdxl(), **settings)


def test_parts_refuse_what_the_node_refuses():
    with pytest.raises(ValueError, match="weight is 2; it is the share of fresh noise, 0 to 1. The paper's is 0.05"):
        with_parts(tiny.sdxl(), InjectNoise(2))
    with pytest.raises(ValueError, match="last_steps is 0; use 1 or more"):
        with_parts(tiny.sdxl(), InjectNoise(0.05, 0))


def test_a_step_from_pure_noise_is_refused_before_sampling():
    evaluated = []
    model = gaussian.model("flow", lambda y, rho: evaluated.append(rho) or y)
    for levels, last_steps in ((torch.tensor([1.0, 0.0]), 1), (torch.tensor([1.0, 0.5, 0.0]), 2)):
        with pytest.raises(ValueError, match=f"last_steps is {last_steps}, and step 1 of {len(levels) - 1} starts from pure noise.*Lower last_steps"):
            tiny.sample(node(model, last_steps=last_steps), GUIDE, cfg=1.0, sigmas=levels)
    assert not evaluated
