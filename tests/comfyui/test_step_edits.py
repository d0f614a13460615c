import comfy.model_sampling
import comfy.samplers
import pytest
import tiny
import torch
from loupe.engine import Part
from loupe.engine.evaluation import with_parts
from loupe.engine.step_edits import UNSUPPORTED, Edits
from loupe.methods.demofusion import schedule_weights
from loupe.patches.demofusion import Renormalize, SkipResidual

pytestmark = pytest.mark.numerics

SIGMAS = torch.tensor([10.0, 8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.8, 0.6, 0.45, 0.3])


class Edit(Part):
    key, rank = "edit", 1

    def __init__(self, **edits):
        self.given = edits

    def edits(self, run):
        return Edits(**self.given)


def nothing_ahead():
    """A model that always predicts an empty image."""
    model = tiny.toy({f"toy.{name}": torch.zeros(shape) for name, shape in {"w1": (1, 4, 3, 3), "b1": 1, "v": 1, "w2": (4, 1, 3, 3), "b2": 4}.items()})

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
        pass

    model.model.model_sampling = Sampling(model.model.model_config)
    return model


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_goes_on_from_the_edited_state(name):
    """A state overwritten at the later steps forgets how the run began, or the sampler is refused."""
    pin = Edit(before=lambda x, sigma, step: x.fill_(sigma) if sigma < 2.8 else None)
    model, latent = with_parts(nothing_ahead(), pin), torch.zeros(1, 4, 4, 4)

    def run(seed):
        return tiny.sample(model, latent, name, sigmas=SIGMAS, cfg=1.0, noise_tensor=tiny.noise(latent.shape, seed))

    if name in REFUSED:
        with pytest.raises(ValueError, match=f"sampler {name} cannot carry edit.*Choose euler"):
            run(1)
    else:
        torch.testing.assert_close(run(1), run(2))


REFUSED = {"dpm_fast", "dpm_adaptive", "sa_solver", "sa_solver_pece", "uni_pc", "uni_pc_bh2"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_refused_samplers_do_lose_edits(name, monkeypatch):
    """Of the next state, or of the prediction: the other half of the trace."""
    function = getattr(comfy.samplers.sampler_object(name).sampler_function, "__name__")
    assert UNSUPPORTED[function] == name
    monkeypatch.delitem(UNSUPPORTED, function)
    latent = torch.zeros(1, 4, 4, 4)

    def run(seed, **edits):
        return tiny.sample(with_parts(nothing_ahead(), Edit(**edits)), latent, name, sigmas=SIGMAS, cfg=1.0, noise_tensor=tiny.noise(latent.shape, seed))

    def pin(x, sigma, step):
        if sigma < 2.8:
            x.fill_(sigma)

    def shift(x, denoised, sigma, step):
        if step == len(SIGMAS) - 2:
            x.add_(1)
            denoised = denoised + 1
        return denoised

    def moved():
        return (run(1, evaluated=shift) - run(1)).mean() * 0.13025

    try:
        lost_before = not torch.allclose(run(1, before=pin), run(2, before=pin), atol=1e-3)
        assert lost_before or not 0.5 < moved() < 2
    except ValueError as error:  # adaptive steps, which no schedule foresees
        assert "cannot carry edit: it" in str(error)


def euler(model, x, before=None, evaluated=None):
    """The loop written out, with edits at their place."""
    for i, (sigma, following) in enumerate(zip(SIGMAS, SIGMAS[1:])):
        if before:
            before(x, sigma, i)
        eps = model.diffusion_model(x / (1 + sigma**2) ** 0.5, model.model_sampling.timestep(sigma).float()[None])
        denoised = x - sigma * eps
        if evaluated:
            denoised = evaluated(x, denoised, sigma, i)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


@pytest.mark.parametrize("kind", ["before", "evaluated"])
def test_euler_equals_the_loop_written_out(kind, golden):
    model = tiny.toy(golden("df_s32_2x_euler")[0])

    def edit(x, *rest):
        x.mul_(0.9).add_(0.1)
        return rest[0] * 0.9 + 0.1

    noise, latent = tiny.noise((1, 4, 8, 8)), tiny.noise((1, 4, 8, 8), 1)
    out = tiny.sample(with_parts(model, Edit(**{kind: edit})), latent, cfg=1.0, sigmas=SIGMAS, noise_tensor=noise)
    expected = euler(model.model, model.model.process_latent_in(latent) + SIGMAS[0] * noise, **{kind: edit})
    assert tiny.relative(model.model.process_latent_in(out), expected) < 1e-6


def test_edits_run_by_rank_and_a_second_one_of_a_kind_replaces_the_first():
    order = []

    def edit(name, rank):
        new = Edit(before=lambda x, sigma, step: order.append(name))
        new.key, new.rank = name[0], rank
        return new

    model = with_parts(nothing_ahead(), edit("late", 2), edit("early", 1))
    model = with_parts(model, edit("latest", 2))
    tiny.sample(model, torch.zeros(1, 4, 4, 4), sigmas=SIGMAS[-2:], cfg=1.0)
    assert order == ["early", "latest"]


def test_the_sampler_is_left_as_it_was():
    sampler = comfy.samplers.sampler_object("euler")
    function = sampler.sampler_function

    def fail(x, sigma, step):
        raise RuntimeError("stopped")

    model = with_parts(nothing_ahead(), Edit(before=fail))
    with pytest.raises(RuntimeError, match="stopped"):
        comfy.sample.sample_custom(model, torch.zeros(1, 4, 4, 4), 1.0, sampler, SIGMAS, tiny.conditioning(), tiny.conditioning(), torch.zeros(1, 4, 4, 4), disable_pbar=True)
    assert sampler.sampler_function is function


def test_a_sampler_class_without_a_function_is_refused_by_name():
    class Homemade(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
            return latent_image

    arguments = torch.zeros(1, 4, 4, 4), 1.0, Homemade(), SIGMAS, tiny.conditioning(), tiny.conditioning(), torch.zeros(1, 4, 4, 4)
    with pytest.raises(ValueError, match="Homemade cannot carry DemoFusion's skip residual"):
        comfy.sample.sample_custom(with_parts(nothing_ahead(), SkipResidual(torch.zeros(1, 4, 4, 4))), *arguments, seed=0)
    # the end of a run can be edited with any sampler
    comfy.sample.sample_custom(with_parts(nothing_ahead(), Renormalize(torch.rand(1, 4, 4, 4))), *arguments, seed=0)


@pytest.mark.parametrize("name", ["sdxl", "sdxl_v", "flux"])
def test_skip_residual_holds_the_run_at_the_reference_with_the_run_s_noise(name):
    """Exponent 0 keeps c1 at 1: what the steps do is overwritten by the reference noised with the run's own noise."""
    model = tiny.MODELS[name]()
    channels = model.model.latent_format.latent_channels
    reference, noise = tiny.noise((1, channels, 8, 8), 1), tiny.noise((1, channels, 8, 8), 2)
    seen = []
    model = with_parts(model, SkipResidual(reference, 0.0), Edit(before=lambda x, sigma, step: seen.append((x.clone(), sigma))))
    tiny.sample(model, torch.zeros_like(noise), noise_tensor=noise, steps=3)
    assert len(seen) == 3
    for x, sigma in seen[1:]:
        expected = model.model.model_sampling.noise_scaling(torch.tensor(sigma), noise, model.model.process_latent_in(reference))
        torch.testing.assert_close(x, expected)


def test_skip_residual_draws_noise_where_the_sampler_adds_none():
    seen = []
    latent = torch.zeros(1, 4, 8, 8)
    model = with_parts(nothing_ahead(), SkipResidual(latent, 0.0), Edit(before=lambda x, sigma, step: seen.append(x / sigma)))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    tiny.sample(model, latent, noise_tensor=latent, sigmas=SIGMAS[-4:], cfg=1.0)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(seen[1], seen[2])
    assert 0.8 < seen[1].std() < 1.2


def test_the_dry_run_leaves_every_generator_alone(monkeypatch):
    """torch.manual_seed would seed the GPU's as well, from which some samplers draw."""
    model, latent = with_parts(nothing_ahead(), Edit(before=lambda x, sigma, step: None)), torch.zeros(1, 4, 8, 8)
    noise, before = tiny.noise(latent.shape), torch.get_rng_state()

    def refuse(seed):
        raise AssertionError("all generators are seeded")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    tiny.sample(model, latent, "euler_ancestral", sigmas=SIGMAS[-4:], cfg=1.0, noise_tensor=noise)
    assert torch.equal(before, torch.get_rng_state())


def test_skip_residual_fades_by_the_cosine_factor(golden):
    model = tiny.toy(golden("df_s32_2x_euler")[0])
    table = model.model.model_sampling.sigmas
    sigmas = torch.stack([table[581], table[561], table[541]])
    noise, latent, reference = (tiny.noise((1, 4, 8, 8), seed) for seed in range(3))
    levels, scaled = iter((581, 561)), model.model.process_latent_in

    def mix(x, sigma, step):
        c1 = schedule_weights(next(levels), 3.0)[0]
        x.copy_((1 - c1) * x + c1 * (scaled(reference) + sigma * noise))

    args = {"sigmas": sigmas, "cfg": 1.0, "noise_tensor": noise}
    torch.testing.assert_close(
        tiny.sample(with_parts(model, SkipResidual(reference)), latent, **args),
        tiny.sample(with_parts(model, Edit(before=mix)), latent, **args),
    )


def test_renormalize_ends_at_the_reference_s_statistics_sample_by_sample():
    reference = torch.cat([tiny.noise((1, 4, 6, 6), 3) * 2 + 1, tiny.noise((1, 4, 6, 6), 4) * 5 - 2])
    latent = tiny.noise((2, 4, 12, 12))
    model = tiny.sdxl()
    out = tiny.sample(with_parts(model, Renormalize(reference)), latent)
    for sample, target in zip(out, reference):
        torch.testing.assert_close(torch.stack(torch.std_mean(sample)), torch.stack(torch.std_mean(target)), rtol=1e-4, atol=1e-4)
    plain = tiny.sample(model, latent)
    torch.testing.assert_close((out[0] - out[0].mean()) / out[0].std(), (plain[0] - plain[0].mean()) / plain[0].std(), rtol=1e-4, atol=1e-4)


def test_renormalize_leaves_an_unfinished_run_alone():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    assert torch.equal(tiny.sample(with_parts(model, Renormalize(latent)), latent, sigmas=SIGMAS[:4]), tiny.sample(model, latent, sigmas=SIGMAS[:4]))


def test_a_noise_mask_keeps_its_part():
    model, latent, mask = tiny.sdxl(), tiny.noise((1, 4, 8, 8)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    edits = SkipResidual(tiny.noise((1, 4, 8, 8), 5)), Renormalize(tiny.noise((1, 4, 8, 8), 6) * 3)
    out = tiny.sample(with_parts(model, *edits), latent, noise_mask=mask)
    torch.testing.assert_close(out[..., 4:], latent[..., 4:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(out[..., :4], tiny.sample(model, latent, noise_mask=mask)[..., :4], rtol=1e-2)


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_run_that_stops_early_takes_the_pull_that_is_due_where_it_sampled(name):
    model = tiny.MODELS[name]()
    channels = model.model.latent_format.latent_channels
    latent, reference, mask = tiny.noise((1, channels, 8, 8)), tiny.noise((1, channels, 8, 8), 5), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", 6)[2:5]
    plain, pulled = (tiny.sample(one, latent, sigmas=sigmas, noise_mask=mask) for one in (model, with_parts(model, SkipResidual(reference))))
    torch.testing.assert_close(pulled[..., 4:], plain[..., 4:])
    assert not torch.allclose(pulled[..., :4], plain[..., :4], rtol=1e-2)
