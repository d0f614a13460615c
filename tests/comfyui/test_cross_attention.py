"""The attention prior on transformers whose cross-attention ComfyUI offers no hook for."""

import comfy.supported_models
import pytest
import tiny
import torch
import torch.nn.functional as F
from loupe.engine.evaluation import with_parts
from loupe.methods.noise import seeded_noise, stream
from loupe.nodes.attention_prior import AttentionPriorNode
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

CONDS = tiny.conditioning(1), tiny.conditioning(2)
TEXT = CONDS[0][0][0].shape[1]
SIGMA = 0.7


class Case:
    """A model, the small image, and a canvas of two regions, in cells."""

    def __init__(self, name):
        self.name, self.model = name, getattr(tiny, name)()
        channels, frames = self.model.model.latent_format.latent_channels, [] if name == "pixart" else [1]
        self.small, self.region, self.step = ((36, 40), 40, 20) if name == "pixart" else ((6, 8), 8, 4)  # PixArt knows no smaller images
        self.reference = tiny.noise((1, channels, *frames, *self.small), 4)
        self.x = tiny.noise((2, channels, *frames, self.region, self.region + self.step), 9)

    def regional(self, **settings):
        return with_parts(self.model, RegionalDenoise((self.region, self.region), **settings))

    def prior(self, model, **settings):
        attention = AttentionPrior(self.reference, **settings)
        attention.check(model)
        return with_parts(model, attention)

    def evaluate(self, model, x=None, conds=CONDS):
        return tiny.evaluate(model, self.x if x is None else x, conds, SIGMA)


@pytest.fixture(scope="module")
def case(request):
    return Case(request.param)


every = pytest.mark.parametrize("case", ["pixart", "cosmos", "anima", "wan"], indirect=True)


def read_by_hooks(case, change):
    """Clone whose cross-attention gives its output, of the layers' modules, to change(layer, n)."""
    model = case.model.clone()

    def around(executor, *args, **kwargs):
        blocks = case.model.model.diffusion_model.blocks
        handles = [block.cross_attn.register_forward_hook(lambda module, args, n, i=i: change(i, n)) for i, block in enumerate(blocks)]
        try:
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    model.add_wrapper_with_key("apply_model", "test", around)
    return model


def read_in_front_of_the_projection(case, change):
    """The same, of the attention itself: what reads as many tokens as the text has."""
    model, layers = case.model.clone(), len(case.model.model.diffusion_model.blocks)
    count = iter(range(10**6))

    def attention(func, q, k, v, heads, *args, **kwargs):
        out = func(q, k, v, heads, *args, **kwargs)
        return change(next(count) % layers, out) if k.shape[-2] == TEXT else out

    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    return model


def written_out(case, weight):
    read = read_by_hooks if case.name == "pixart" else read_in_front_of_the_projection
    model, x, step = case.model, case.x, case.step
    reference = model.model.process_latent_in(case.reference).expand_as(x[..., : case.small[0], : case.small[1]])
    kept, parts = {}, []

    def keep(layer, n):
        kept[layer] = n[:2].unflatten(1, [side // 2 for side in case.small]).movedim(-1, 1)
        return n

    noise = seeded_noise((1, *reference.shape[1:]), stream(0, "attention prior fixed")).expand_as(reference)
    case.evaluate(read(case, keep), model.model.model_sampling.noise_scaling(torch.tensor([SIGMA]), noise, reference), (CONDS[0], CONDS[0]))
    for start in (0, step):

        def mix(layer, n, start=start):
            window = F.interpolate(kept[layer], [side // 2 for side in x.shape[-2:]], mode="bilinear")[..., start // 2 : (start + case.region) // 2]
            return torch.lerp(n, window.flatten(2).mT.repeat(2, 1, 1), weight)

        part = x[..., start : start + case.region]
        parts.append((case.evaluate(read(case, mix), part, (CONDS[0], CONDS[0]))[0], case.evaluate(model, part)[1]))
    return [torch.cat([a[..., :step], (a[..., step:] + b[..., :step]) / 2, b[..., step:]], -1) for a, b in zip(*parts)]


@pytest.mark.parametrize("weight", [1.0, 0.3])
@every
def test_regions_read_the_interpolated_attention(case, weight):
    plain = case.evaluate(case.regional())
    expected = written_out(case, weight)
    out = case.evaluate(case.prior(case.regional(), weight_alone=weight))
    torch.testing.assert_close(out[0], expected[0], rtol=1e-4, atol=1e-4)
    assert tiny.relative(expected[0], plain[0]) > 1e-3
    assert torch.equal(out[1], plain[1])


@every
def test_batches_equal_single_images_and_regions(case):
    together = case.evaluate(case.prior(case.regional(regions_per_call=3)))[0]
    one_by_one = case.evaluate(case.prior(case.regional(regions_per_call=1)))[0]
    single = torch.cat([case.evaluate(case.prior(case.regional()), x)[0] for x in case.x.split(1)])
    assert tiny.relative(together, one_by_one) < 1e-4 and tiny.relative(together, single) < 1e-4


@every
def test_the_model_is_left_as_it_was_and_a_second_prior_replaces_the_first(case):
    latent = tiny.noise((1, *case.x.shape[1:]))
    plain = tiny.sample(case.regional(), latent)
    once = case.prior(case.regional())
    first = tiny.sample(once, latent)
    assert torch.equal(tiny.sample(case.regional(), latent), plain)
    assert torch.equal(tiny.sample(case.prior(once), latent), first) and not torch.equal(first, plain)
    assert torch.equal(tiny.sample(case.prior(case.regional(), weight=0.0, weight_alone=0.0), latent), plain)
    assert not any(module._forward_hooks for module in case.model.model.diffusion_model.modules())


@every
def test_no_hook_is_left_by_a_network_that_fails(case):
    def broken(args):
        raise RuntimeError("broken")

    model = case.prior(case.regional())
    handle = case.model.model.diffusion_model.blocks[1].register_forward_pre_hook(lambda module, args: broken(args))
    try:
        with pytest.raises(RuntimeError, match="broken"):
            case.evaluate(model)
    finally:
        handle.remove()
    assert not any(module._forward_hooks for module in case.model.model.diffusion_model.modules())


@every
def test_output_patches_of_unets_stay_without_effect(case):
    """Another pack's patch, which ComfyUI calls in UNets only."""
    patched = case.model.clone()
    patched.set_model_attn2_output_patch(lambda n, extra_options: 0 * n)
    regional = with_parts(patched, RegionalDenoise((case.region, case.region)))
    assert tiny.relative(case.evaluate(case.prior(regional))[0], case.evaluate(case.prior(case.regional()))[0]) < 1e-4


@pytest.mark.parametrize("case", ["anima"], indirect=True)
def test_anima_s_text_adapter_is_no_layer_of_the_image(case):
    """Its blocks have a cross_attn too."""
    ids = {"t5xxl_ids": torch.arange(TEXT), "t5xxl_weights": torch.ones(TEXT)}
    conds = tiny.conditioning(1, **ids), tiny.conditioning(2, **ids)
    out, plain = (case.evaluate(model, conds=conds)[0] for model in (case.prior(case.regional()), case.regional()))
    assert tiny.relative(out, plain) > 1e-3


@pytest.mark.parametrize("case", ["pixart", "wan"], indirect=True)
def test_node(case):
    model, reference = case.regional(), {"samples": case.reference}
    out = AttentionPriorNode.execute(model, reference, 0.5, 1.0, "all", 1, "fixed", 0).result[0]
    assert torch.equal(case.evaluate(out)[0], case.evaluate(case.prior(model))[0])
    with pytest.raises(ValueError, match="layers is 'up'"):
        AttentionPriorNode.execute(model, reference, 0.5, 1.0, "up", 1, "fixed", 0)


@pytest.mark.parametrize("case", ["wan"], indirect=True)
def test_an_image_latent_without_frames_serves_as_reference(case):
    out = AttentionPriorNode.execute(case.regional(), {"samples": case.reference[:, :, 0]}, 0.5, 1.0, "all", 1, "fixed", 0).result[0]
    assert torch.equal(case.evaluate(out)[0], case.evaluate(case.prior(case.regional()))[0])


@pytest.mark.parametrize("case", ["wan"], indirect=True)
def test_videos_are_refused(case):
    with pytest.raises(ValueError, match="reference has 2 frames; the Attention Prior works on images.*Structure Prior"):
        AttentionPrior(case.reference.repeat(1, 1, 2, 1, 1)).check(case.model)
    with pytest.raises(ValueError, match="the sampled latent has 2 frames"):
        case.evaluate(case.prior(case.regional()), case.x.repeat(1, 1, 2, 1, 1))


@pytest.mark.parametrize("case", ["wan"], indirect=True)
def test_wan_s_attention_to_an_image_is_refused(case):
    model = tiny.wan(36, comfy.supported_models.WAN21_I2V, model_type="i2v")
    with pytest.raises(ValueError, match="model is WAN21 for image to video.*Structure Prior and Region Prompts instead"):
        case.prior(model)
    case.prior(tiny.wan(36, comfy.supported_models.WAN21_I2V))  # Wan 2.2's, whose layers read the text alone


@pytest.mark.parametrize("patched", [False, True], ids=["", "beside another pack's patch"])
@pytest.mark.parametrize("case", ["wan"], indirect=True)
def test_reference_latents_are_refused(case, patched):
    model = tiny.wan(in_dim_ref_conv=16)
    if patched:
        model.set_model_attn1_patch(lambda args: args["x"])
    model = case.prior(with_parts(model, RegionalDenoise((8, 8))))
    referring = [tiny.conditioning(seed, reference_latents=[case.x[:1]]) for seed in (1, 2)]
    with pytest.raises(ValueError, match="^positive holds images of its own .reference latents.*Remove them, or the prior"):
        case.evaluate(model, conds=referring)
    case.evaluate(model, conds=(CONDS[0], referring[1]))
