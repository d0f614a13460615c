"""A model that appears tomorrow: a class that no record has, on a network that none names. It runs in regions of 1024 px."""

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import pytest
import tiny
import torch
from loupe.engine.families import GENERIC, family_of
from loupe.engine.sizes import Grid
from loupe.nodes.latent_adjustment import LatentAdjustmentNode
from loupe.nodes.regional_denoise import RegionalDenoiseNode
from loupe.nodes.structure_prior import StructurePriorNode
from loupe.nodes.upscale_image import Creativity
from widgets import defaults


class Network(torch.nn.Module):
    """Its tokens are 2 x 2 cells, which it says in the usual word."""

    patch_size = 2

    def __init__(self, channels=12, dtype=None, device=None, operations=None, **settings):
        super().__init__()
        self.dtype = dtype
        self.into = operations.Conv2d(channels, 16, 2, stride=2, dtype=dtype, device=device)
        self.text = operations.Linear(64, 16, dtype=dtype, device=device)
        self.out = operations.Linear(16, 4 * channels, dtype=dtype, device=device)

    def forward(self, x, timesteps, context, **extra):
        told = self.text(context).mean(1) + timesteps[:, None]
        hidden = (self.into(x) + told[..., None, None]).tanh()
        return torch.nn.functional.pixel_shuffle(self.out(hidden.movedim(1, -1)).movedim(-1, 1), 2)


class Tomorrow(comfy.model_base.BaseModel):
    def __init__(self, config, device=None):
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device, unet_model=Network)

    def extra_conds(self, **given):
        return {**super().extra_conds(**given), "c_crossattn": comfy.conds.CONDRegular(given["cross_attn"])}


class Latents(comfy.latent_formats.LatentFormat):
    latent_channels, spacial_downscale_ratio = 12, 16


class Config(comfy.supported_models_base.BASE):
    unet_config, latent_format, sampling_settings = {}, Latents, {"shift": 4.0}
    memory_usage_factor = 1.0

    def get_model(self, state, prefix="", device=None):
        return Tomorrow(self, device=device)


@pytest.fixture(scope="module")
def model():
    return tiny._build(Config, {})


def run(node, **values):
    return node.execute(**defaults(node, **values)).result


def test_it_has_no_record_and_the_common_native_side(model):
    assert family_of(model.model) == GENERIC
    assert Grid.of(model.model) == Grid(16, 2, 1024)


def test_its_native_side_is_1024_pixels(model):
    large = tiny.noise((1, 12, 80, 112))
    images = []
    for side in (0, 1024):
        (patched,) = run(RegionalDenoiseNode, model=model, region_width=side, region_height=side, jitter=False)
        patched, seen = tiny.views_seen(patched)
        images.append(tiny.sample(patched, large, sampler="euler", steps=2, cfg=1.0))
        assert seen == {(64, 64)}
    assert torch.equal(*images)


def test_one_region_changes_nothing(model):
    small = tiny.noise((1, 12, 48, 64))
    (patched,) = run(RegionalDenoiseNode, model=model)
    assert torch.equal(tiny.sample(patched, small, steps=2), tiny.sample(model, small, steps=2))


def test_the_graph_of_one_dial_runs(model):
    small, large = {"samples": tiny.noise((1, 12, 40, 56), 1)}, {"samples": tiny.noise((1, 12, 80, 112), 2)}
    sigmas, structure, fidelity = run(Creativity, model=model, preset="fast")
    (patched,) = run(RegionalDenoiseNode, model=model, jitter=False, overlap=0.25, blend="gaussian")
    (patched,) = run(StructurePriorNode, model=patched, reference=small, weight=structure, mode="kappa")
    (patched,) = run(LatentAdjustmentNode, model=patched, reference=large, preset="custom", alpha=fidelity, beta=0.0, early_end=0.5, boundaries="steps")
    patched, seen = tiny.views_seen(patched)
    out = tiny.sample(patched, large["samples"], sampler="euler", sigmas=sigmas, cfg=1.0)
    assert seen == {(64, 64)} and out.shape == large["samples"].shape and out.isfinite().all()
