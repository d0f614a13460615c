"""The nodes of the one-dial graph."""

import comfy.utils
import pytest
import tiny
import torch
from loupe.benchmarks.world import World
from loupe.engine.sigmas import levels_of
from loupe.methods.creativity import PRESETS, TABLE, alpha, settings
from loupe.methods.latent_adjustment import shares_by_step
from loupe.methods.schedules import start_for
from loupe.nodes.upscale_image import Creativity, EnlargeImage, OptionalControlNet
from loupe.patches.latent_adjustment import LIMITS

from nodes import ControlNetApplyAdvanced


@pytest.fixture(scope="module")
def world():
    return World()


def image(height=64, width=96, channels=3, count=1, seed=0):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def enlarge(vae, image, scale_by=2.0, **sockets):
    latent, reference, large = EnlargeImage.execute(image, vae, scale_by, **sockets).result
    return latent["samples"], reference["samples"], large


def lanczos(image, width, height):
    return comfy.utils.common_upscale(image.movedim(-1, 1), width, height, "lanczos", "disabled").movedim(1, -1)


@torch.inference_mode()
def test_an_image_is_enlarged_and_encoded(world):
    small = image()
    latent, reference, large = enlarge(world.vae, small)
    assert torch.equal(large, lanczos(small, 192, 128))
    assert torch.equal(latent, world.vae.encode(large)) and torch.equal(reference, world.vae.encode(small))


@torch.inference_mode()
def test_the_result_is_whole_cells(world):
    latent, reference, large = enlarge(world.vae, image(65, 100), 1.37)
    assert latent.shape == (1, 4, 11, 17) and large.shape == (1, 88, 136, 3) and reference.shape == (1, 4, 8, 12)


@torch.inference_mode()
def test_gray_and_alpha_are_read_as_color(world):
    gray = image(channels=1)
    assert torch.equal(enlarge(world.vae, gray)[0], enlarge(world.vae, gray.expand(-1, -1, -1, 3))[0])
    colors = image(channels=4)
    assert torch.equal(enlarge(world.vae, colors)[0], enlarge(world.vae, colors[..., :3])[0])


@torch.inference_mode()
def test_a_batch_is_its_singles(world):
    both = image(count=2)
    for whole, *parts in zip(enlarge(world.vae, both), *(enlarge(world.vae, one) for one in both.split(1))):
        assert torch.equal(whole, torch.cat(parts))


@torch.inference_mode()
def test_a_latent_sr_model_takes_the_latent(world):
    small = image()
    latent, reference, large = enlarge(world.vae, small, lsr=world.upscaler)
    assert torch.equal(latent, world.upscaler.upscale(reference, 16, 24))
    assert torch.equal(large, lanczos(small, 192, 128))


@torch.inference_mode()
def test_an_upscale_model_comes_first(world):
    class Twice:
        scale = 2

    calls = []

    def upscale(model, images):
        calls.append(model)
        return type("Output", (), {"result": (images.flip(2),)})

    small = image()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loupe.models.lsr.pixels.ImageUpscaleWithModel.execute", upscale)
        large = enlarge(world.vae, small, upscale_model=Twice)[2]
    assert calls == [Twice] and torch.equal(large, lanczos(small.flip(2), 192, 128))


def test_an_image_smaller_than_a_cell_is_refused(world):
    with pytest.raises(ValueError, match="image has the shape .*at least 8 x 8 pixels"):
        enlarge(world.vae, image(4, 96))


@pytest.mark.parametrize("build", [tiny.sdxl, tiny.zimage, tiny.flux2], ids=["eps", "flow, shift 3", "flow, shift 7.5"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("creativity", [0.0, 0.35, 1.0])
def test_the_dial_starts_at_the_same_noise_on_every_model(build, preset, creativity):
    model = build()
    sigmas, structure, fidelity = Creativity.execute(model, creativity, preset, "simple").result
    levels, meant = levels_of(model.get_model_object("model_sampling")), settings(creativity)
    assert len(sigmas) == PRESETS[preset] + 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert levels.ratio(float(sigmas[0])) == pytest.approx(start_for(meant.strength), rel=1e-3)
    assert (structure, fidelity) == (meant.structure, alpha(meant.fidelity, PRESETS[preset]))


def test_more_creativity_starts_higher_and_holds_less():
    rows = [settings(step / 100) for step in range(101)]
    for before, after in zip(rows, rows[1:]):
        assert after.strength > before.strength and after.structure <= before.structure and after.fidelity <= before.fidelity
    assert {row: settings(row) for row in TABLE} == TABLE
    for outside in (-0.01, 1.01):
        with pytest.raises(ValueError, match="creativity is .*expected 0 to 1"):
            settings(outside)


@pytest.mark.parametrize("steps", PRESETS.values())
def test_the_first_half_of_the_steps_holds_as_much_in_every_preset(steps):
    for row in TABLE.values():
        left = 1.0
        for share in shares_by_step(steps, alpha(row.fidelity, steps), 0.0, 0.5, 1.0):
            assert 0 <= share <= LIMITS["sample"][0]
            left *= 1 - share
        assert left == pytest.approx(1 - row.fidelity)


def test_without_a_controlnet_prompts_stay_what_they_are():
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    out = OptionalControlNet.execute(positive, negative, image(), 0.6, 0.8).result
    assert out[0] is positive and out[1] is negative


def test_a_controlnet_is_applied_as_comfyui_applies_it():
    hint = image()
    control = tiny.controlnet(torch.zeros(1, 3, 64, 64))
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    ours = OptionalControlNet.execute(positive, negative, hint, 0.6, 0.8, control_net=control).result
    theirs = ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, hint, 0.6, 0.0, 0.8)
    for mine, other in zip(ours, theirs):
        a, b = mine[0][1]["control"], other[0][1]["control"]
        assert torch.equal(a.cond_hint_original, b.cond_hint_original) and (a.strength, a.timestep_percent_range) == (b.strength, b.timestep_percent_range) == (0.6, (0.0, 0.8))
