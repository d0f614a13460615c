"""Other nodes on the same model, before and after Regional Denoise."""

import comfy.context_windows
import comfy.ldm.modules.attention
import comfy.samplers
import comfy.supported_models
import local
import pytest
import tiny
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_tomesd import TomePatchModel
from loupe.engine.evaluation import with_parts
from loupe.patches.regional_denoise import RegionalDenoise
from test_local import INSIDE, SETTINGS
from tolerance import close

pytestmark = pytest.mark.numerics

SIGMAS = torch.tensor([2.0, 0.0])


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


@pytest.fixture(scope="module")
def sd15():
    """With attention at full resolution, where HyperTile and ToMe work."""
    unet = {**tiny.UNET, "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "use_linear_in_transformer": False, "context_dim": 64, "num_heads": 4, "num_head_channels": -1, "adm_in_channels": None}
    return tiny._build(comfy.supported_models.SD15, unet)


def patched(node, model, *settings):
    out = node.execute(model, *settings)
    return out[0] if isinstance(out, tuple) else out.result[0]


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((8, 8), sizes="unchanged", **settings))


class AdapterPatch:
    """A replaced cross attention of the protocol of IP-Adapter nodes: later ones are added to it."""

    def __init__(self, scale):
        self.scales = [scale]

    def add(self, scale):
        self.scales.append(scale)

    def __call__(self, q, k, v, extra_options):
        assert len(q) % len(extra_options["cond_or_uncond"]) == 0
        out = comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])
        for scale in self.scales:
            out = out + comfy.ldm.modules.attention.optimized_attention(q, k * scale, v * scale, extra_options["n_heads"])
        return out


def adapter(model):
    model = model.clone()
    patch = AdapterPatch(0.5)
    model.set_model_attn2_replace(patch, "middle", 0, 0)
    patch.add(0.25)
    return model


WITHIN = {
    "FreeU": lambda model: patched(FreeU_V2, model, 1.3, 1.4, 0.9, 0.2),
    "HyperTile": lambda model: patched(HyperTile, model, 32, 1, 0, False),
    "PAG": lambda model: patched(PerturbedAttentionGuidance, model, 3.0),
    "IP-Adapter": adapter,
}


def one_step(model, latent, noise):
    """The prediction of one step; linear in those of the guidance branches."""
    return tiny.sample(model, latent, sigmas=SIGMAS, noise_tensor=noise, cfg=3.0, positive=tiny.conditioning(1, width=96, height=64), negative=tiny.conditioning(2, width=96, height=64))


@pytest.mark.parametrize("name", WITHIN)
def test_regions_are_the_patched_model_on_each_crop_averaged(name, sd15):
    latent, noise = torch.zeros(2, 4, 8, 12), tiny.noise((2, 4, 8, 12))
    model = WITHIN[name](sd15)
    left, right = (one_step(model, latent[..., start : start + 8], noise[..., start : start + 8]) for start in (0, 4))
    expected = torch.cat([left[..., :4], (left[..., 4:] + right[..., :4]) / 2, right[..., 4:]], -1)
    out = one_step(regional(model), latent, noise)
    close(out, expected, 5e-5)
    assert torch.equal(one_step(WITHIN[name](regional(sd15)), latent, noise), out)
    assert not torch.allclose(one_step(regional(sd15), latent, noise), out, rtol=1e-3)


@pytest.mark.parametrize(("node", "settings"), [(TomePatchModel, (0.5,))])
def test_what_is_random_composes(node, settings, sd15):
    """ToMe merges random tokens."""
    latent, noise = torch.zeros(1, 4, 16, 20), tiny.noise((1, 4, 16, 20))
    outs = []
    for model in (regional(patched(node, sd15, *settings)), patched(node, regional(sd15), *settings)):
        torch.manual_seed(0)
        outs.append(one_step(model, latent, noise))
    assert outs[0].isfinite().all()
    assert torch.equal(*outs)
    assert not torch.allclose(one_step(regional(sd15), latent, noise), outs[0], rtol=1e-3)


def test_three_branches_in_one_call(sdxl):
    """Perp-Neg: positive, negative and empty prompts, evaluated together."""
    conds = [tiny.conditioning(seed, mask=torch.rand(1, 8, 12), width=96, height=64) for seed in (1, 2, 3)]
    found = []

    class Guider(Guider_PerpNeg):
        def predict_noise(self, x, timestep, model_options={}, seed=None):
            branches = [self.conds[name] for name in ("positive", "negative", "empty_negative_prompt")]
            found.append(comfy.samplers.calc_cond_batch(self.inner_model, branches, x, timestep, model_options))
            return super().predict_noise(x, timestep, model_options, seed)

    def sample(model, start=0, width=12):
        guider = Guider(model)
        guider.set_conds(*([[text, {**keys, "mask": keys["mask"][..., start : start + width]}]] for ((text, keys),) in conds))
        guider.set_cfg(4.0, 1.5)
        noise = tiny.noise((1, 4, 8, 12))[..., start : start + width]
        return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), SIGMAS, seed=0)

    assert sample(regional(sdxl)).isfinite().all()
    sample(sdxl, 0, 8)
    sample(sdxl, 4, 8)
    for out, left, right in zip(*found):
        expected = torch.cat([left[..., :4], (left[..., 4:] + right[..., :4]) / 2, right[..., 4:]], -1)
        close(out, expected, 5e-5)


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("cache", [EasyCacheNode, LazyCacheNode])
def test_caches_reuse_region_batches(cache, jitter, sdxl, caplog):
    latent, noise = torch.zeros(1, 4, 8, 16), tiny.noise((1, 4, 8, 16))
    args = {"noise_tensor": noise, "sigmas": torch.linspace(3, 2, 7)}

    def cached(model):
        return patched(cache, model, 0.5, 0.0, 1.0, False)

    exact = tiny.sample(regional(sdxl, regions_per_call=2, jitter=jitter, seed=2), latent, **args)
    for model in (regional(cached(sdxl), regions_per_call=2, jitter=jitter, seed=2), cached(regional(sdxl, regions_per_call=2, jitter=jitter, seed=2))):
        caplog.clear()
        with caplog.at_level("INFO"):
            out = tiny.sample(model, latent, **args)
        # regions that move are not the ones that EasyCache kept
        assert ("skipped 0/6" in caplog.text) == (jitter and cache is EasyCacheNode), caplog.text
        assert tiny.relative(out, exact) < 0.3


def windows(model):
    model = model.clone()
    model.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule(comfy.context_windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=comfy.context_windows.get_matching_fuse_method(comfy.context_windows.ContextFuseMethods.PYRAMID),
        context_length=4,
        context_overlap=2,
        dim=2,
    )
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    return model


def test_windows_over_frames_times_regions_over_space():
    model = local.build("wan")
    x = tiny.noise((1, 16, 7, *local.CANVAS), 9)
    conds = local.together("wan", model)
    expected = tiny.evaluate(windows(model), x, conds, 0.7)
    assert not torch.allclose(expected[0], tiny.evaluate(model, x, conds, 0.7)[0], rtol=1e-3)
    for both in (with_parts(windows(model), SETTINGS), windows(with_parts(model, SETTINGS))):
        for out, whole in zip(tiny.evaluate(both, x, conds, 0.7), expected):
            torch.testing.assert_close(out[..., INSIDE], whole[..., INSIDE], rtol=1e-4, atol=1e-4)
