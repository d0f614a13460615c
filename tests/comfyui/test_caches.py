"""What other nodes keep from one network call or evaluation to the next, beside regions, images of two sizes and
PixelSmith. docs/regions.md shows the table of these tests."""

import comfy_extras.nodes_flux
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_sag import SelfAttentionGuidance
from loupe.engine.evaluation import with_parts
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.pixelsmith import sample
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

LATENT, SMALL = tiny.noise((1, 4, 16, 24), 3) * 0.5, tiny.noise((1, 4, 8, 12), 4) * 0.5
SIGMAS = torch.linspace(3, 2, 7)


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def patched(node, model, *settings):
    return node.execute(model, *settings).result[0]


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((16, 16), **settings))


@pytest.fixture
def flux():
    if not hasattr(comfy_extras.nodes_flux, "FluxKVCache"):
        pytest.skip("this ComfyUI has no Flux KV Cache")
    return tiny.flux2()


def kv_cache(model):
    return patched(comfy_extras.nodes_flux.FluxKVCache, model)


def pixelsmith(model, batch=0):
    calls = []

    def count(executor, *args, **kwargs):
        calls.append(None)
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    sigmas = torch.tensor([3.0, 2.0, 1.0, 0.0])
    channels = model.model.latent_format.latent_channels
    guidance = LATENT if channels == 4 else tiny.noise((1, channels, 16, 24), 3)
    try:
        return sample(model, tiny.conditioning(1), tiny.conditioning(2), guidance, sigmas, 2, 3.0, 9, 12, regions_per_call=batch)
    except ValueError:
        assert not calls
        raise


def with_two_sizes(model, name):
    return patch_demofusion(model, SMALL) if name == "DemoFusion" else with_parts(model, AttentionPrior(SMALL))


@pytest.mark.parametrize("name", ["DemoFusion", "Attention Prior"])
def test_easycache_keeps_images_of_each_size_apart(name, sdxl, caplog):
    def run(model):
        return tiny.sample(with_two_sizes(regional(model), name), LATENT, sigmas=SIGMAS)

    exact = run(sdxl)
    with caplog.at_level("INFO"):
        out = run(patched(EasyCacheNode, sdxl, 0.5, 0.0, 1.0, False))
    assert "resetting state" not in caplog.text and "skipped 0/" not in caplog.text
    assert 0 < tiny.relative(out, exact) < 0.3


@pytest.mark.parametrize("name", ["DemoFusion", "Attention Prior"])
def test_lazycache_keeps_the_whole_canvas(name, sdxl, caplog):
    model = with_two_sizes(regional(sdxl), name)
    with caplog.at_level("INFO"):
        out = tiny.sample(patched(LazyCacheNode, model, 0.5, 0.0, 1.0, False), LATENT, sigmas=SIGMAS)
    assert "resetting state" not in caplog.text and "skipped 0/" not in caplog.text
    assert 0 < tiny.relative(out, tiny.sample(model, LATENT, sigmas=SIGMAS)) < 0.3


def test_guidance_with_momentum_sees_the_whole_canvas(sdxl):
    """It works on what has been put together from the regions."""
    model = patched(APG, sdxl, 1.0, 5.0, -0.5)
    one, all_at_once = (tiny.sample(regional(model, regions_per_call=batch), LATENT, sigmas=SIGMAS) for batch in (1, 0))
    assert tiny.relative(all_at_once, one) < 1e-4
    assert tiny.relative(one, tiny.sample(regional(patched(APG, sdxl, 1.0, 5.0, 0.0)), LATENT, sigmas=SIGMAS)) > 1e-3


@pytest.mark.parametrize("name", ["regions", "DemoFusion", "Attention Prior"])
def test_guidance_that_records_attention_is_refused_beside_several_views(name, sdxl):
    model = patched(SelfAttentionGuidance, sdxl, 0.5, 2.0)
    model = regional(model) if name == "regions" else with_two_sizes(model, name)
    with pytest.raises(ValueError, match="SelfAttentionGuidance.execute.post_cfg_function, which looks at what the network left in its last call.*Remove that node"):
        tiny.sample(model, LATENT, sigmas=SIGMAS)


def test_guidance_that_records_attention_is_comfyui_s_own_with_one_region(sdxl):
    model = patched(SelfAttentionGuidance, sdxl, 0.5, 2.0)
    one = with_parts(model, RegionalDenoise((32, 32)))
    assert torch.equal(tiny.sample(one, LATENT, sigmas=SIGMAS), tiny.sample(model, LATENT, sigmas=SIGMAS))


@pytest.mark.parametrize("name", ["Average", "average_in_a_dict.post_cfg"])
def test_guidance_that_averages_sees_the_whole_canvas(name, sdxl, caplog):
    model = REMEMBERING[name]
    one, all_at_once = (tiny.sample(regional(model(sdxl), regions_per_call=batch), LATENT, sigmas=SIGMAS) for batch in (1, 0))
    assert tiny.relative(all_at_once, one) < 1e-4
    assert tiny.relative(one, tiny.sample(regional(sdxl), LATENT, sigmas=SIGMAS)) > 1e-3
    assert "last call" not in caplog.text


REMEMBERING = {
    "APG": lambda model: patched(APG, model, 1.0, 5.0, -0.5),
    "SelfAttentionGuidance": lambda model: patched(SelfAttentionGuidance, model, 0.5, 2.0),
    "EasyCache": lambda model: patched(EasyCacheNode, model, 0.5, 0.0, 1.0, False),
    "LazyCache": lambda model: patched(LazyCacheNode, model, 0.5, 0.0, 1.0, False),
}


class Average:
    """A guidance of another pack, with a memory on an object or in a dict."""

    def __init__(self):
        self.before = None

    def __call__(self, args):
        self.before = args["denoised"] if self.before is None else (self.before + args["denoised"]) / 2
        return self.before


def average_in_a_dict(model):
    state, model = {"before": None}, model.clone()

    def post_cfg(args):
        before = state["before"]
        state["before"] = args["denoised"]
        return args["denoised"] if before is None else (before + args["denoised"]) / 2

    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def average_on_an_object(model):
    model = model.clone()
    model.set_model_sampler_post_cfg_function(Average())
    return model


class Momentum:
    def __init__(self):
        self.mean = None

    def update(self, x):
        self.mean = x if self.mean is None or self.mean.shape != x.shape else (self.mean + x) / 2
        return self.mean


def average_by_a_helper(model):
    buffer, model = Momentum(), model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: buffer.update(args["denoised"]))
    return model


def average_in_a_list(model):
    seen, model = [], model.clone()

    def post_cfg(args):
        seen.append(args["denoised"])
        return seen[-1] if len(seen) < 2 or seen[-2].shape != seen[-1].shape else (seen[-2] + seen[-1]) / 2

    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def average_around_the_guider(model):
    buffer, model = Momentum(), model.clone()

    def around(executor, *args, **kwargs):
        return buffer.update(executor(*args, **kwargs))

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "average", around)
    return model


REMEMBERING |= {
    "Average": average_on_an_object,
    "average_in_a_dict.post_cfg": average_in_a_dict,
    "average_by_a_helper": average_by_a_helper,
    "average_in_a_list.post_cfg": average_in_a_list,
    "average_around_the_guider.around": average_around_the_guider,
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_pixelsmith_refuses_what_remembers(name, sdxl):
    with pytest.raises(ValueError, match=rf"model carries guidance that remembers the previous evaluation \(.*{name}.*from before that node"):
        pixelsmith(REMEMBERING[name](sdxl))


def test_pixelsmith_takes_guidance_without_a_memory(sdxl):
    """Also one that keeps a record of what it has seen, or whose memory is switched off."""
    seen = []

    def post_cfg(args):
        out = args["denoised"].clone()
        out[..., 0, 0] = 0
        seen.append(float(args["sigma"][0]))
        return out

    model = patched(APG, sdxl, 1.0, 5.0, 0.0)
    model.set_model_sampler_post_cfg_function(post_cfg)
    out = pixelsmith(model)
    assert out.isfinite().all() and seen
    assert tiny.relative(pixelsmith(model, 1), out) < 1e-4


REFERENCE = {"reference_latents": [tiny.noise((1, 128, 8, 16), 7)]}
FLUX = tiny.noise((1, 128, 8, 16), 3)


def flux_sample(model):
    positive, negative = (tiny.conditioning(seed, **REFERENCE) for seed in (1, 2))
    return tiny.sample(model, FLUX, steps=2, cfg=1.0, positive=positive, negative=negative)


@pytest.mark.parametrize("what", ["regions", "dilated views"])
def test_a_kv_cache_is_refused_beside_several_views(what, flux):
    """It would keep the reference tokens of the first for all others."""
    model = kv_cache(flux)
    model = with_parts(model, RegionalDenoise((8, 8))) if what == "regions" else patch_demofusion(model, FLUX[..., :4, :8])
    with pytest.raises(ValueError, match="model carries Flux KV Cache, which keeps the reference image of the first region.*Remove that node"):
        flux_sample(model)


def test_a_kv_cache_is_comfyui_s_own_with_one_region(flux):
    one = flux_sample(with_parts(kv_cache(flux), RegionalDenoise((8, 16))))
    assert torch.equal(one, flux_sample(kv_cache(flux)))
    assert not torch.equal(one, flux_sample(flux))


def test_a_kv_cache_is_refused_by_pixelsmith(flux):
    with pytest.raises(ValueError, match="model carries Flux KV Cache"):
        pixelsmith(kv_cache(flux))
