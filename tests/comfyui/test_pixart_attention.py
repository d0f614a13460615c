"""The attention prior on PixArt, whose cross-attention ComfyUI offers no hook for."""

import comfy.supported_models
import pytest
import tiny
import torch
import torch.nn.functional as F
from loupe.engine.evaluation import with_parts
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.regions import Region
from loupe.nodes.attention_prior import AttentionPriorNode
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

CONDS = tiny.conditioning(1), tiny.conditioning(2)
REFERENCE = tiny.noise((1, 4, 36, 40), 4)
X = tiny.noise((2, 4, 40, 60), 9) * 2
REGIONS = Region(0, 0, 40, 40), Region(0, 20, 40, 40)  # PixArt knows no smaller pictures


def pixart():
    unet = {"image_model": "pixart_sigma", "input_size": 16, "patch_size": 2, "hidden_size": 96, "depth": 2, "num_heads": 2, "caption_channels": 64, "pe_interpolation": 1.0, "micro_condition": True}
    return tiny._build(comfy.supported_models.PixArtSigma, unet)


def prior(model, **settings):
    attention = AttentionPrior(REFERENCE, **settings)
    attention.check(model)
    return with_parts(model, attention)


def regional(model):
    return with_parts(model, RegionalDenoise((40, 40)))


def evaluate(model, x, conds, hook=None, sigma=2.0):
    """A stock evaluation with hook(layer, n) on the output of every cross-attention module."""
    handles = []
    if hook is not None:
        for i, block in enumerate(model.model.diffusion_model.blocks):
            handles.append(block.cross_attn.register_forward_hook(lambda module, args, n, i=i: hook(i, n)))
    try:
        return tiny.evaluate(model, x, conds, sigma)
    finally:
        for handle in handles:
            handle.remove()


def written_out(model, weight, sigma=2.0):
    reference = model.model.process_latent_in(REFERENCE).expand(2, -1, -1, -1)
    kept, parts = {}, []
    evaluate(model, reference + sigma * seeded_noise((1, *reference.shape[1:]), stream(0, "attention prior fixed")), (CONDS[0], CONDS[0]), lambda i, n: kept.update({i: n[:2].unflatten(1, (18, 20)).movedim(-1, 1)}))
    for region in REGIONS:

        def mix(i, n, region=region):
            window = F.interpolate(kept[i], (20, 30), mode="bilinear")[..., region.x // 2 : region.x // 2 + 20]
            return torch.lerp(n, window.flatten(2).mT.repeat(2, 1, 1), weight)

        part = region.crop(X)
        parts.append((evaluate(model, part, (CONDS[0], CONDS[0]), mix)[0], evaluate(model, part, CONDS)[1]))
    return [torch.cat([a[..., :20], (a[..., 20:] + b[..., :20]) / 2, b[..., 20:]], -1) for a, b in zip(*parts)]


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_regions_read_the_interpolated_attention(weight):
    model = pixart()
    expected = written_out(model, weight)
    for out, branch in zip(tiny.evaluate(prior(regional(model), weight_alone=weight), X, CONDS), expected):
        torch.testing.assert_close(out, branch, rtol=1e-4, atol=1e-4)
    assert tiny.relative(expected[0], tiny.evaluate(regional(model), X, CONDS)[0]) > 1e-3


def test_the_model_is_left_as_it_was_and_a_second_prior_replaces_the_first():
    model = pixart()
    latent = tiny.noise((1, 4, 40, 60))
    plain = tiny.sample(regional(model), latent)
    once = prior(regional(model))
    first = tiny.sample(once, latent)
    assert torch.equal(tiny.sample(regional(model), latent), plain)
    assert torch.equal(tiny.sample(prior(once), latent), first) and not torch.equal(first, plain)
    assert torch.equal(tiny.sample(prior(regional(model), weight=0.0, weight_alone=0.0), latent), plain)


def test_node():
    model = pixart()
    out = AttentionPriorNode.execute(regional(model), {"samples": REFERENCE}, 0.5, 1.0, "all", 1, "fixed", 0).result[0]
    assert torch.equal(tiny.evaluate(out, X, CONDS)[0], tiny.evaluate(prior(regional(model)), X, CONDS)[0])
    with pytest.raises(ValueError, match="layers is 'up'"):
        AttentionPriorNode.execute(regional(model), {"samples": REFERENCE}, 0.5, 1.0, "up", 1, "fixed", 0)
