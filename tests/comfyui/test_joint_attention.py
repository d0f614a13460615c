"""The experimental attention prior on SD 3 and Flux against its definition, with attention written out as maps."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from loupe.engine.evaluation import with_parts
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.regions import Region
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

CONDS = tiny.conditioning(1), tiny.conditioning(2)
REFERENCE = tiny.noise((1, 16, 6, 8), 4)
X = tiny.noise((2, 16, 8, 12), 9)
REGIONS = Region(0, 0, 8, 8), Region(0, 4, 8, 8)
SIGMA = 0.6


def prior(model, **settings):
    attention = AttentionPrior(REFERENCE, joint=True, **settings)
    attention.check(model)
    return with_parts(model, attention)


def regional(model):
    return with_parts(model, RegionalDenoise((8, 8)))


def with_maps(model, tokens, change):
    """Clone that attends by maps; change(layer, text share m, o_text, o_picture) makes the picture's output."""
    model, layers = model.clone(), []

    def attention(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        text = maps.shape[-1] - tokens
        share = maps[:, :, text:, :text].sum(-1, keepdim=True)
        o_text = maps[:, :, text:, :text] @ v[:, :, :text] / share
        o_picture = maps[:, :, text:, text:] @ v[:, :, text:] / (1 - share)
        layers.append(None)
        picture = change(len(layers), share, o_text, o_picture)
        return torch.cat([maps[:, :, :text] @ v, picture], 2).transpose(1, 2).flatten(2)

    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    return model


def enlarged(kept, region):
    """(rows, heads, tokens, d) of the 3 x 4 small picture, on the 4 x 6 canvas, cut to the region's 4 x 4."""
    rows, heads = kept.shape[:2]
    canvas = F.interpolate(kept.mT.flatten(0, 1).unflatten(-1, (3, 4)), (4, 6), mode="bilinear")
    return canvas[..., region.x // 2 : region.x // 2 + 4].flatten(2).unflatten(0, (rows, heads)).mT


def written_out(model, weight):
    reference = model.model.process_latent_in(REFERENCE).expand(2, -1, -1, -1)
    kept, parts = {}, []

    def keep(layer, share, o_text, o_picture):
        kept[layer] = share[:2], o_text[:2]
        return (1 - share) * o_picture + share * o_text

    x = model.model.model_sampling.noise_scaling(torch.tensor([SIGMA]), seeded_noise((1, *reference.shape[1:]), stream(0, "attention prior fixed")).expand_as(reference), reference)
    tiny.evaluate(with_maps(model, 12, keep), x, (CONDS[0], CONDS[0]), SIGMA)
    for region in REGIONS:

        def mix(layer, share, o_text, o_picture, region=region):
            small_share, small_text = (enlarged(value, region).repeat(2, 1, 1, 1) for value in kept[layer])
            share = (1 - weight) * share + weight * small_share
            return (1 - share) * o_picture + share * ((1 - weight) * o_text + weight * small_text)

        part = region.crop(X)
        parts.append((tiny.evaluate(with_maps(model, 16, mix), part, (CONDS[0], CONDS[0]), SIGMA)[0], tiny.evaluate(model, part, CONDS, SIGMA)[1]))
    return [torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, b[..., 4:]], -1) for a, b in zip(*parts)]


@pytest.mark.parametrize("make", [tiny.sd3, tiny.flux], ids=["sd3", "flux"])
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_regions_read_share_and_text_of_the_small_picture(make, weight):
    model = make()
    expected = written_out(model, weight)
    plain = tiny.evaluate(regional(model), X, CONDS, SIGMA)
    out = tiny.evaluate(prior(regional(model), weight_alone=weight), X, CONDS, SIGMA)
    torch.testing.assert_close(out[0], expected[0], rtol=1e-4, atol=1e-4)
    assert tiny.relative(out[0], plain[0]) > 1e-3
    assert torch.equal(out[1], plain[1])


@pytest.mark.parametrize("make", [tiny.sd3, tiny.flux], ids=["sd3", "flux"])
def test_another_override_stays_in_place(make):
    model = make()

    def halved(func, q, k, v, heads, **kwargs):
        return 0.5 * func(q, k, v, heads, **kwargs)

    changed = model.clone()
    changed.model_options["transformer_options"]["optimized_attention_override"] = halved
    tokens = []

    def watch(func, q, k, v, heads, **kwargs):
        tokens.append(kwargs["transformer_options"]["cond_or_uncond"])
        return func(q, k, v, heads, **kwargs)

    watched = model.clone()
    watched.model_options["transformer_options"]["optimized_attention_override"] = watch
    same = tiny.evaluate(prior(regional(watched)), X, CONDS, SIGMA)
    assert tokens and torch.equal(same[0], tiny.evaluate(prior(regional(model)), X, CONDS, SIGMA)[0])
    assert not torch.equal(tiny.evaluate(prior(regional(changed)), X, CONDS, SIGMA)[0], same[0])


def test_it_has_to_be_switched_on():
    with pytest.raises(ValueError, match="model is SD3, whose text and image share.*joint_attention"):
        AttentionPrior(REFERENCE).check(tiny.sd3())
    with pytest.raises(ValueError, match="layers is 'up', but Flux has no encoder"):
        AttentionPrior(REFERENCE, layers="up", joint=True).check(tiny.flux())
