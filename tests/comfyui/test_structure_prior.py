import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import tiny
import torch
from loupe.engine import without_parts
from loupe.engine.evaluation import with_parts
from loupe.engine.sigmas import levels_of
from loupe.methods.structure_prior import kappa, low_pass, structure_edit
from loupe.nodes.structure_prior import StructurePriorNode
from loupe.patches.structure_prior import StructurePrior


class Toy(torch.nn.Module):
    """The reference loop's network, as a noise predictor: x0 = 0.7 tanh(x / (1 + sigma^2)) + 0.3 m."""

    def __init__(self, m, sigmas):
        super().__init__()
        self.dtype, self.m, self.sigmas = torch.float32, m, sigmas

    def denoised(self, x, sigma):
        return 0.7 * torch.tanh(x / (1 + sigma**2)) + 0.3 * self.m

    def forward(self, x, timesteps, **kwargs):
        sigma = self.sigmas[timesteps.long()[0]]
        x = x * (1 + sigma**2) ** 0.5
        return (x - self.denoised(x, sigma)) / sigma


@pytest.fixture
def loop(golden):
    """(ModelPatcher with the prior, tensors, description) of the reference loop."""
    tensors, info = golden("cupscale_gsp_loop")
    tensors = {name: value.float() for name, value in tensors.items()}
    model = tiny.toy({f"toy.{name}": torch.zeros(1) for name in ("w1", "b1", "v", "w2", "b2")})
    model.model.diffusion_model = Toy(tensors["m"], model.model.model_sampling.sigmas)
    prior = StructurePrior(model.model.process_latent_out(tensors["ref"]), info["gamma"], info["schedule"], clamp=False)
    return with_parts(model, prior), tensors, info


def run(model, start, sigmas, sampler):
    latent = model.model.process_latent_out(start)
    out = tiny.sample(model, latent, sampler, cfg=1.0, sigmas=sigmas, noise_tensor=torch.zeros_like(latent))
    return model.model.process_latent_in(out)


@pytest.mark.numerics
def test_euler_is_the_written_out_loop(loop):
    model, tensors, info = loop
    sigmas = torch.tensor(info["sigmas_k"])
    torch.testing.assert_close(run(model, tensors["x_start_ve"], sigmas, "euler"), tensors["final"], atol=2e-5, rtol=0)
    for steps in (1, 5, 13):
        state = run(model, tensors["x_start_ve"], sigmas[: steps + 1], "euler")
        torch.testing.assert_close(state / (1 + sigmas[steps] ** 2) ** 0.5, tensors["z_after_step"][steps - 1], atol=2e-5, rtol=0)


@pytest.mark.numerics
def test_the_stock_ksampler_walks_the_papers_grid(loop):
    model, tensors, info = loop
    ksampler = comfy.samplers.KSampler(model, 50, torch.device("cpu"), "euler", "ddim_uniform", 1.0)
    torch.testing.assert_close(ksampler.sigmas[28:], torch.tensor(info["sigmas_k"]), rtol=1e-5, atol=0)
    latent = model.model.process_latent_out(tensors["x_start_ve"])
    cond = tiny.conditioning()
    out = comfy.sample.sample(model, torch.zeros_like(latent), 50, 1.0, "euler", "ddim_uniform", cond, cond, latent, disable_noise=True, start_step=28, last_step=50, force_full_denoise=True, disable_pbar=True)
    torch.testing.assert_close(model.model.process_latent_in(out), tensors["final"], atol=2e-5, rtol=0)


@pytest.mark.numerics
def test_dpmpp_2m_moves_its_history_too(loop):
    """The solver written out: the edit shifts the state after the step, and the prediction it remembers."""
    model, tensors, info = loop
    sigmas, toy = torch.tensor(info["sigmas_k"]), model.model.diffusion_model
    x, old, lasted = tensors["x_start_ve"], None, None
    for i, t in enumerate(info["timesteps"]):
        sigma, following = sigmas[i], sigmas[i + 1]
        denoised = toy.denoised(x, sigma)
        edit = structure_edit(denoised, tensors["ref"], kappa(info["gamma"], t, float(sigma), clamp=False))
        ratio = following / sigma
        blend = denoised
        if old is not None and following > 0:
            r = lasted / torch.log(sigma / following)
            blend = (1 + 1 / (2 * r)) * denoised - old / (2 * r) + edit / (2 * r)
        x = ratio * x + (1 - ratio) * blend + edit
        old, lasted = denoised + edit, torch.log(sigma / following)
    torch.testing.assert_close(run(model, tensors["x_start_ve"], sigmas, "dpmpp_2m"), x, atol=2e-5, rtol=0)


@pytest.mark.numerics
def test_weight_zero_changes_no_bit_of_the_loop(loop):
    model, tensors, info = loop
    plain = with_parts(model, StructurePrior(torch.zeros(1, 4, 1, 1), 0.0))
    sigmas = torch.tensor(info["sigmas_k"])
    assert torch.equal(run(plain, tensors["x_start_ve"], sigmas, "uni_pc"), run(without_parts(model), tensors["x_start_ve"], sigmas, "uni_pc"))


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("settings", [{}, {"mode": "kappa"}, {"direction": "shrink prediction"}, {"wavelet": "db2"}])
def test_models_of_every_prediction(name, settings):
    model = tiny.MODELS[name]()
    channels = model.model.latent_format.latent_channels
    latent, reference = tiny.noise((2, channels, 14, 18)), tiny.noise((1, channels, 7, 9), 5)
    model.model.diffusion_model.requires_grad_(False)
    for parameter in list(model.model.diffusion_model.parameters())[-2:]:
        parameter.mul_(0.05)
    conds = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2)}
    plain = tiny.sample(model, latent, steps=4, denoise=0.5, **conds)
    prior = StructurePrior(reference, 0.5, **settings)
    pulled = tiny.sample(with_parts(model, prior), latent, steps=4, denoise=0.5, **conds)

    def distance(x):
        return (torch.nn.functional.interpolate(x, (7, 9), mode="area") - reference).square().mean()

    assert torch.isfinite(pulled).all() and distance(pulled) < 0.98 * distance(plain)


@pytest.mark.numerics
def test_videos():
    model = tiny.wan()
    latent, reference = tiny.noise((1, 16, 2, 9, 12)), tiny.noise((1, 16, 2, 5, 6), 5)

    def distance(model):
        out = tiny.sample(model, latent, steps=4, denoise=0.5, cfg=1.0)
        return (torch.nn.functional.interpolate(out[0].transpose(0, 1), (5, 6), mode="area") - reference[0].transpose(0, 1)).square().mean()

    assert distance(with_parts(model, StructurePrior(reference, 0.5))) < 0.95 * distance(model)


def test_cosmos_counts_noise_of_its_state():
    class Cosmos(comfy.model_sampling.ModelSamplingCosmosRFlow, comfy.model_sampling.COSMOS_RFLOW):
        pass

    levels = levels_of(Cosmos())
    assert [round(levels.timestep(sigma)) for sigma in (80.0, 1.0, 0.25)] == [999, 354, 60]
    assert (levels.signal(3.0), levels.noise(3.0)) == (1, 3)


def test_weight_zero_changes_no_bit_and_the_kept_part_of_a_mask_stays():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 12, 16))
    node = StructurePriorNode.execute
    settings = {"schedule": "cosine", "mode": "paper", "clamp": True, "compare": "enlarge reference", "upscale_method": "bicubic", "wavelet": "haar", "wavelet_levels": 1}
    off = node(model, {"samples": torch.zeros(1, 4, 4, 4)}, 0.0, **settings).result[0]
    assert torch.equal(tiny.sample(off, latent), tiny.sample(model, latent))

    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 5:] = 1
    on = node(model, {"samples": torch.zeros(1, 4, 4, 4)}, 0.2, **settings).result[0]
    out = tiny.sample(on, latent, noise_mask=mask)
    torch.testing.assert_close(out[..., :5], latent[..., :5])
    assert not torch.equal(out, tiny.sample(model, latent, noise_mask=mask))


def test_a_cached_model_gives_the_same_image_again():
    model = with_parts(tiny.sdxl(), StructurePrior(tiny.noise((1, 4, 6, 8), 2), 0.4))
    latent = tiny.noise((1, 4, 12, 16))
    assert torch.equal(tiny.sample(model, latent, "dpmpp_2m"), tiny.sample(model, latent, "dpmpp_2m"))


def test_another_models_latent_is_refused():
    with pytest.raises(ValueError, match="reference has 16 channels"):
        StructurePriorNode.execute(tiny.sdxl(), {"samples": torch.zeros(1, 16, 4, 4)}, 0.2, "cosine", "paper", True, "enlarge reference", "bicubic", "haar", 1)


@pytest.mark.parametrize("target", ["image", "prediction"])
@pytest.mark.parametrize("settings", [{"schedule": "cosine over the run"}, {"schedule": "variance over the run", "band": "resize"}, {"band": "butterworth"}])
def test_other_pulls_of_the_coarse_part(settings, target):
    model = tiny.sdxl()
    latent, reference = tiny.noise((1, 4, 14, 18)), tiny.noise((1, 4, 7, 9), 5)
    plain, pulled = (tiny.sample(one, latent, steps=4, denoise=0.5, cfg=1.0) for one in (model, with_parts(model, StructurePrior(reference, 0.7, target=target, **settings))))
    reference = torch.nn.functional.interpolate(reference, (14, 18), mode="bicubic")
    coarse = [low_pass(out - reference, "butterworth").square().mean() for out in (pulled, plain)]
    assert coarse[0] < 0.98 * coarse[1]


def test_a_low_band_of_the_canvas_is_not_compared_at_the_references_size():
    with pytest.raises(ValueError, match="compare is 'shrink prediction' and low_band 'resize'.*Set compare to 'enlarge reference'"):
        with_parts(tiny.sdxl(), StructurePrior(torch.zeros(1, 4, 4, 4), direction="shrink prediction", band="resize"))
