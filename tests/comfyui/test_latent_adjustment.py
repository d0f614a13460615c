import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import tiny
import torch
from loupe.engine.evaluation import with_parts
from loupe.methods.latent_adjustment import adjust, shares_by_step
from loupe.nodes.latent_adjustment import LatentAdjustmentNode
from loupe.nodes.presets import LATENT_ADJUSTMENT
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.structure_prior import StructurePrior
from tolerance import close

pytestmark = pytest.mark.numerics


class Toy(torch.nn.Module):
    """The reference loop's network, as a noise predictor: x0 = sqrt(abar) z + (1 - abar) m."""

    def __init__(self, m, sigmas):
        super().__init__()
        self.dtype, self.m, self.sigmas = torch.float32, m, sigmas

    def forward(self, z, timesteps, **kwargs):
        sigma = self.sigmas[timesteps.long()[0]]
        abar = 1 / (1 + sigma**2)
        return (z / abar.sqrt() - (abar.sqrt() * z + (1 - abar) * self.m)) / sigma


@pytest.fixture
def loop(golden):
    """(ModelPatcher, tensors, description) of the reference loop."""
    tensors, info = golden("lsa")
    tensors = {name: value.float() for name, value in tensors.items()}
    model = tiny.toy({f"toy.{name}": torch.zeros(1) for name in ("w1", "b1", "v", "w2", "b2")})
    model.model.diffusion_model = Toy(tensors["m"], model.model.model_sampling.sigmas)
    return model, tensors, info


def adjusted(model, tensors, **settings):
    return with_parts(model, LatentAdjustment(model.model.process_latent_out(tensors["x_lr"]), **settings))


def ddpm(model, tensors, steps, first=0, last=None, state=None):
    """ComfyUI's ddpm on ddim_uniform, with the recorded noise; scaled latents."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", steps)
    noises = iter(tensors["noises"][first:])
    sampler = comfy.samplers.ksampler("ddpm", {"noise_sampler": lambda sigma, following: next(noises)})
    x = tensors["z_start"] * (1 + sigmas[0] ** 2) ** 0.5 if state is None else state
    latent, cond = model.model.process_latent_out(x), tiny.conditioning()
    out = comfy.sample.sample_custom(model, torch.zeros_like(latent), 1.0, sampler, sigmas[first : None if last is None else last + 1], cond, cond, latent, disable_pbar=True, seed=0)
    return model.model.process_latent_in(out)


@pytest.mark.parametrize("target", ["sample", "denoised"])
def test_ddpm_is_the_recorded_loop(loop, target):
    """Of ten steps, of which the paper's boundaries are taken as fractions."""
    model, tensors, info = loop
    close(ddpm(model, tensors, info["N"]), tensors["traj.none"], 2e-5)
    out = ddpm(adjusted(model, tensors, target=target, boundaries="steps", alpha=info["alpha"], beta=info["beta"]), tensors, info["N"])
    close(out, tensors[f"traj.{target}"], 2e-5)
    assert (out - tensors["traj.none"]).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [10, 50])
def test_split_between_two_samplers_it_is_the_same_run(loop, steps):
    model, tensors, _ = loop
    tensors = {**tensors, "noises": tensors["noises"][0] * torch.linspace(-1, 1, steps)[:, None, None, None, None]}
    model = adjusted(model, tensors)
    whole = ddpm(model, tensors, steps)
    for split in (1, steps // 2, steps - 2):
        half = ddpm(model, tensors, steps, last=split)
        close(ddpm(model, tensors, steps, split, state=half), whole, 2e-5)


class Cosmos(comfy.model_sampling.ModelSamplingCosmosRFlow, comfy.model_sampling.COSMOS_RFLOW):
    """As ComfyUI builds it for Cosmos and Anima."""


def cosmos():
    model = tiny.sd15()
    model.model.model_sampling = Cosmos()
    return model


@pytest.mark.parametrize("name", [*tiny.MODELS, "cosmos"])
def test_euler_is_the_loop_written_out(name):
    """In the space of every prediction, with a reference of another size and batch."""
    model = cosmos() if name == "cosmos" else tiny.MODELS[name]()
    channels = model.model.latent_format.latent_channels
    latent, reference = tiny.noise((2, channels, 8, 12)), tiny.noise((1, channels, 4, 6), 1)
    conds = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "cfg": 1.0}
    steps = 5
    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", steps)
    x_lr = model.model.process_latent_in(torch.nn.functional.interpolate(reference, (8, 12), mode="bicubic"))
    flow = name in ("sd3", "flux")

    def deviation(sigma):
        """Of the state, over the paper's variance-preserving one."""
        return ((1 - sigma if flow else 1) ** 2 + sigma**2) ** 0.5

    state, noise = latent, None
    for i, share in enumerate(shares_by_step(steps, 0.05, 0.04)):
        # flow's unfinished latents go in and out divided by 1 - sigma
        state = model.model.process_latent_in(tiny.sample(model, state, sigmas=sigmas[i : i + 2], noise_tensor=noise, **conds))
        signal = 1 - sigmas[i + 1] if flow else 1
        scale = deviation(sigmas[i + 1])
        state = adjust(state * signal / scale, x_lr, share) * scale / signal
        state, noise = model.model.process_latent_out(state), torch.zeros_like(latent)
    model = with_parts(model, LatentAdjustment(reference, 0.05, 0.04, boundaries="steps"))
    out = tiny.sample(model, latent, sigmas=sigmas, **conds)
    close(out, state, 1e-5)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "lcm"])
def test_samplers_are_drawn_by_the_prediction(sampler):
    model, latent, reference = tiny.sdxl(), tiny.noise((1, 4, 8, 8)), tiny.noise((1, 4, 8, 8), 3)
    sigmas = torch.tensor([3.0, 2.0, 1.2, 0.7, 0.4, 0.2, 0.0])

    def distance(*edits):
        out = tiny.sample(with_parts(model, *edits), latent, sampler, sigmas=sigmas)
        return float((out - reference).square().mean())

    near, plain, far = (distance(*edits) for edits in ([LatentAdjustment(reference, 0.3, 0.0, 1.0, 1.0, target="denoised")], [], [LatentAdjustment(reference, 0.0, 0.15, 0.0, 0.0, target="denoised")]))
    assert near < plain < far


@pytest.mark.parametrize("target", ["sample", "denoised"])
@pytest.mark.parametrize("sampler", ["uni_pc", "dpm_fast", "sa_solver"])
def test_samplers_that_cannot_be_edited_are_refused(sampler, target):
    latent = tiny.noise((1, 4, 8, 8))
    with pytest.raises(ValueError, match=f"sampler {sampler} cannot carry Latent Adjustment"):
        tiny.sample(with_parts(tiny.sdxl(), LatentAdjustment(latent, target=target)), latent, sampler)


@pytest.mark.parametrize("target", ["sample", "denoised"])
def test_masked_out_part_stays(target):
    model, latent, mask = tiny.sdxl(), tiny.noise((1, 4, 8, 8)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    plain = tiny.sample(model, latent, noise_mask=mask, steps=6)
    out = tiny.sample(with_parts(model, LatentAdjustment(tiny.noise((1, 4, 8, 8), 5), 0.1, 0.05, target=target)), latent, noise_mask=mask, steps=6)
    assert torch.equal(out[..., 4:], plain[..., 4:])
    assert not torch.allclose(out[..., :4], plain[..., :4], rtol=1e-3)


def node(model, reference=None, preset="custom", alpha=0.01, beta=0.01, early_end=0.2, late_start=0.8, boundaries="noise level", target="sample"):
    reference = tiny.noise((1, 4, 4, 4), 2) if reference is None else reference
    return LatentAdjustmentNode.execute(model, {"samples": reference}, preset, alpha, beta, early_end, late_start, boundaries, target).result[0]


def test_presets_are_the_papers_values():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    for preset, alpha in (("ClearSR", 0.01), ("fidelity", 0.03)):
        assert torch.equal(tiny.sample(node(model, preset=preset), latent, steps=5), tiny.sample(node(model, alpha=alpha), latent, steps=5))
    assert not torch.equal(tiny.sample(node(model, preset="fidelity"), latent, steps=5), tiny.sample(node(model), latent, steps=5))


def test_values_that_the_preset_would_not_use_are_refused():
    with pytest.raises(ValueError, match="alpha is 0.05, but preset is 'ClearSR', which sets it to 0.01. Set preset to 'custom'"):
        node(tiny.sdxl(), preset="ClearSR", alpha=0.05)
    assert LatentAdjustmentNode.validate_inputs(preset="fidelity", alpha=0.05, beta=0.01, early_end=0.2, late_start=0.8, target="sample").startswith("alpha is 0.05")
    schema = {entry.id: entry for entry in LatentAdjustmentNode.define_schema().inputs}["preset"]
    assert schema.as_dict()["presets"] == LATENT_ADJUSTMENT and schema.default == "ClearSR"


def test_off_changes_no_bit_and_a_cached_model_repeats_itself():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    plain = tiny.sample(model, latent, "dpmpp_2m", steps=5)
    assert torch.equal(tiny.sample(node(model, alpha=0.0, beta=0.0), latent, "dpmpp_2m", steps=5), plain)
    assert torch.equal(tiny.sample(node(model, early_end=0.0, late_start=1.0), latent, "uni_pc", steps=5), tiny.sample(model, latent, "uni_pc", steps=5))
    on = node(model)
    first = tiny.sample(on, latent, "dpmpp_2m", steps=5)
    assert torch.equal(first, tiny.sample(on, latent, "dpmpp_2m", steps=5)) and not torch.equal(first, plain)


def test_a_second_node_replaces_the_first_and_others_stay():
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    prior = StructurePrior(tiny.noise((1, 4, 4, 4), 9))
    twice = node(node(with_parts(model, prior), alpha=0.1), alpha=0.02)
    assert torch.equal(tiny.sample(twice, latent, steps=5), tiny.sample(with_parts(node(model, alpha=0.02), prior), latent, steps=5))


def test_a_batch_is_its_singles():
    model, latents, references = tiny.sdxl(), tiny.noise((2, 4, 8, 8)), tiny.noise((2, 4, 4, 4), 2)
    noise = tiny.noise(latents.shape, 7)
    both = tiny.sample(node(model, references, alpha=0.1), latents, steps=5, noise_tensor=noise)
    for i in range(2):
        one = tiny.sample(node(model, references[i : i + 1], alpha=0.1), latents[i : i + 1], steps=5, noise_tensor=noise[i : i + 1])
        close(both[i : i + 1], one, 2e-5)


def test_videos():
    model = tiny.wan()
    latent, reference = tiny.noise((1, 16, 2, 8, 8)), tiny.noise((1, 16, 2, 4, 4), 2)
    plain = tiny.sample(model, latent, steps=5)
    out = tiny.sample(node(model, reference, alpha=0.1, beta=0.0), latent, steps=5)
    assert out.shape == latent.shape and torch.isfinite(out).all() and not torch.equal(out, plain)
    with pytest.raises(ValueError, match="reference has 3 frames, the sampled latent has 2"):
        tiny.sample(node(model, tiny.noise((1, 16, 3, 4, 4))), latent)
    with pytest.raises(ValueError, match="reference is a video latent"):
        tiny.sample(node(tiny.sdxl(), tiny.noise((1, 4, 1, 8, 8))), tiny.noise((1, 4, 8, 8)))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"alpha": 0.2}, "alpha is 0.2; with target 'sample' it goes from 0 to 0.1"),
        ({"beta": 0.06}, "beta is 0.06; with target 'sample' it goes from 0 to 0.05"),
        ({"alpha": -0.01}, "alpha is -0.01"),
        ({"alpha": 0.4, "target": "denoised"}, "alpha is 0.4; expected 0.0 to 0.3"),
        ({"early_end": 0.9}, "early_end is 0.9 and late_start 0.8"),
        ({"reference": torch.zeros(1, 16, 4, 4)}, "reference has 16 channels, the model's latents have 4"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        node(tiny.sdxl(), **settings)


@pytest.mark.parametrize(("steps", "settings", "says"), [(2, {"boundaries": "steps"}, True), (3, {"boundaries": "steps"}, False), (2, {"alpha": 0.0, "beta": 0.0}, False), (2, {"early_end": 0.0, "late_start": 1.0}, True), (1, {}, False)])
def test_a_run_too_short_for_it_is_told_of(steps, settings, says, caplog):
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 8))
    with caplog.at_level("WARNING"):
        tiny.sample(node(model, latent, **settings), latent, steps=steps)
    assert ("Latent Adjustment changed nothing" in caplog.text) == says
